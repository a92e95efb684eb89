/**
 * Which rows of a long list are drawn: those that are seen, and a few beside them.
 */

const BESIDE = 6;

/** What of a list is drawn. */
export interface IWindow {
  /** The first row that is drawn. */
  start: number;
  /** The row after the last one. */
  end: number;
}

/** Give the rows to draw of a list whose rows are all of one height. */
export function visibleRows(
  scrollTop: number,
  height: number,
  rowHeight: number,
  rows: number
): IWindow {
  const first = Math.floor(scrollTop / rowHeight);
  const last = Math.ceil((scrollTop + height) / rowHeight);
  const end = Math.min(rows, Math.max(0, last) + BESIDE);
  return { start: Math.min(Math.max(0, first - BESIDE), end), end };
}

/** Give where a list is to be scrolled to, so that a row is seen whole; where it is, if it is seen. */
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
