/**
 * The lines of a file, of which only the pages used last are kept.
 */

import type { ILine, ILinePage } from './types';

/** How many lines to ask for at once. */
export const PAGE_LINES = 200;
/** How many pages to keep. */
const PAGES_HELD = 50;
/** How long to wait before asking again for a page that could not be loaded. */
const AGAIN_SECONDS = 3;

/** Where lines come from; the first is 1. */
export type LineSource = (start: number, limit: number) => Promise<ILinePage>;

/**
 * Returns lines at once if they are loaded, and asks for them if not.
 */
export class Lines {
  /**
   * @param _source - Where they come from.
   * @param _arrived - Called with the first line, and how many have arrived.
   * @param _failed - Called with what went wrong.
   */
  constructor(
    private readonly _source: LineSource,
    private readonly _arrived: (start: number, count: number) => void,
    private readonly _failed: (error: Error) => void = () => undefined
  ) {}

  /** The number of lines; 0 until it is known. */
  get total(): number {
    return this._total;
  }

  /** Return a line, or null (and ask for it) if it is not loaded yet. */
  get(number: number): ILine | null {
    const page = Math.floor((number - 1) / PAGE_LINES);
    const lines = this._pages.get(page);
    if (lines === undefined) {
      void this.load(page);
      return null;
    }
    // A page that ends early, because its lines are large, continues with its next part.
    const line = lines[number - 1 - page * PAGE_LINES];
    if (line === undefined && number <= this._total) {
      void this.load(page);
    }
    return line ?? null;
  }

  /** Ask for a page, unless it is on its way. */
  async load(page: number): Promise<void> {
    if (this._asked.has(page)) {
      return;
    }
    this._asked.add(page);
    const held = this._pages.get(page) ?? [];
    const start = page * PAGE_LINES + held.length + 1;
    try {
      const answer = await this._source(start, PAGE_LINES - held.length);
      this._total = answer.total;
      this._pages.delete(page);
      this._pages.set(page, [...held, ...answer.data]);
      this._forget();
      this._asked.delete(page);
      this._arrived(start, answer.data.length);
    } catch (error) {
      this._failed(error instanceof Error ? error : new Error(String(error)));
      setTimeout(() => this._asked.delete(page), 1000 * AGAIN_SECONDS);
    }
  }

  private _forget(): void {
    for (const page of this._pages.keys()) {
      if (this._pages.size <= PAGES_HELD) {
        break;
      }
      this._pages.delete(page);
    }
  }

  private readonly _asked = new Set<number>();
  private readonly _pages = new Map<number, ILine[]>();
  private _total = 0;
}

/** Split a text into lines in the form that the server returns. */
export function linesOf(content: string): LineSource {
  const texts = content.split('\n');
  if (texts.at(-1) === '') {
    texts.pop();
  }
  return (start, limit) => {
    const data = texts
      .slice(start - 1, start - 1 + limit)
      .map((text, index) => lineOf(start + index, text));
    return Promise.resolve({
      data,
      total: texts.length,
      has_more: start - 1 + limit < texts.length
    });
  };
}

function lineOf(number: number, text: string): ILine {
  try {
    return { number, json: JSON.parse(text) as unknown, text: null, truncated: false };
  } catch {
    return { number, json: null, text, truncated: false };
  }
}
