/**
 * Which rows of a long list are drawn: the visible ones, and a few above and below.
 */

const EXTRA = 6;

/** The part of a list that is drawn. */
export interface IWindow {
  /** The first row that is drawn. */
  start: number;
  /** The row after the last one. */
  end: number;
}

/** Return the rows to draw of a list whose rows all have the same height. */
export function visibleRows(
  scrollTop: number,
  height: number,
  rowHeight: number,
  rows: number
): IWindow {
  const first = Math.floor(scrollTop / rowHeight);
  const last = Math.ceil((scrollTop + height) / rowHeight);
  const end = Math.min(rows, Math.max(0, last) + EXTRA);
  return { start: Math.min(Math.max(0, first - EXTRA), end), end };
}

/** Return where to scroll a list so that a row is fully visible. */
export function scrollTo(
  row: number,
  scrollTop: number,
  height: number,
  rowHeight: number
): number {
  const top = row * rowHeight;
  if (top < scrollTop) {
    return top;
  }
  return top + rowHeight > scrollTop + height ? top + rowHeight - height : scrollTop;
}
