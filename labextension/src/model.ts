/**
 * What the panel shows: batches, newest first, and engines, as reported by the server.
 */

import type { ISignal } from '@lumino/signaling';
import { Signal } from '@lumino/signaling';

import type {
  IBatch,
  IBatchPage,
  IBatchView,
  IEngine,
  IProblem,
  ServerEvent,
  Status
} from './types';

const TERMINAL: readonly Status[] = ['completed', 'failed', 'expired', 'cancelled'];

/** Whether a batch has ended and cannot change any more. */
export function hasEnded(batch: IBatch): boolean {
  return TERMINAL.includes(batch.status);
}

/** Whether a batch can be cancelled. */
export function isCancellable(batch: IBatch): boolean {
  return batch.status === 'validating' || batch.status === 'in_progress';
}

/** Whether a batch waits until it is resumed. */
export function isPaused(view: IBatchView): boolean {
  return view.paused && !hasEnded(view.batch);
}

/**
 * How up to date the panel is: live events, polling, no connection, refused by a server that says why (such as a store
 * that is damaged), or not watched.
 */
export type Connection =
  | { kind: 'live' }
  | { kind: 'polling' }
  | { kind: 'lost'; reason: string }
  | { kind: 'refused'; reason: string }
  | { kind: 'still' };

/**
 * Batches and engines. To draw them, listen to `changed`.
 */
export class BatchesModel {
  /** Emitted after each change. */
  get changed(): ISignal<this, void> {
    return this._changed;
  }

  /** The loaded batches, newest first. */
  get batches(): readonly IBatchView[] {
    return this._batches;
  }

  /** The engines, in the server's order. */
  get engines(): readonly IEngine[] {
    return this._engines;
  }

  /** The problems that loops of the server and the kernels have now. */
  get problems(): readonly IProblem[] {
    return this._problems;
  }

  /** The size of the store's files when the panel last got everything; 0 before. */
  get storeBytes(): number {
    return this._storeBytes;
  }

  /** The number of batches, including those not loaded yet. */
  get total(): number {
    return Math.max(this._total, this._batches.length);
  }

  /** Whether the server has older batches that are not loaded yet. */
  get hasMore(): boolean {
    return this._hasMore;
  }

  /** Whether anything has been loaded yet. */
  get isKnown(): boolean {
    return this._isKnown;
  }

  /** How up to date this is. */
  get connection(): Connection {
    return this._connection;
  }
  set connection(connection: Connection) {
    this._connection = connection;
    this._changed.emit();
  }

  /** The selected batch. */
  get selected(): IBatchView | null {
    return this._selected === null ? null : this.find(this._selected);
  }

  /** Select a batch, or none. */
  select(id: string | null): void {
    this._selected = id;
    this._changed.emit();
  }

  /** Return a batch, or null if it is not loaded. */
  find(id: string): IBatchView | null {
    return this._byId.get(id) ?? null;
  }

  /** The batches that have not ended. */
  get unfinished(): IBatchView[] {
    return this._batches.filter(view => !hasEnded(view.batch));
  }

  /** Generated tokens per second of all engines. */
  get tokensPerSecond(): number {
    return this._engines.reduce(
      (sum, one) => sum + (one.stats?.generation_tokens_per_second ?? 0),
      0
    );
  }

  /** Apply an event of the server. */
  apply(event: ServerEvent): void {
    switch (event.name) {
      case 'snapshot':
        this._restart(event.data.batches);
        this._engines = event.data.engines;
        this._problems = event.data.problems;
        this._storeBytes = event.data.store_bytes;
        break;
      case 'batch':
        // The first page had the total; a new batch adds one.
        this._total += this._total > 0 && !this._byId.has(event.data.batch.id) ? 1 : 0;
        this._keep(event.data, 'newest');
        break;
      case 'engine':
        this._keepEngine(event.data);
        break;
      case 'engine_gone':
        this._engines = this._engines.filter(engine => engine.id !== event.data.id);
        break;
      case 'problems':
        this._problems = event.data.problems;
        break;
    }
    this._changed.emit();
  }

  /** Add a page of older batches. */
  addPage(page: IBatchPage): void {
    // What events reported about a batch is newer than a page that was asked for before.
    const unknown = page.data.filter(view => !this._byId.has(view.batch.id));
    unknown.forEach(view => this._keep(view, 'oldest'));
    this._hasMore = page.has_more;
    this._total = page.total;
    const last = page.data.at(-1);
    this._cursor = last === undefined ? this._cursor : last.batch.id;
    this._changed.emit();
  }

  /** The batch after which the next page of older ones begins; null for the first page. */
  get cursor(): string | null {
    return this._cursor;
  }

  /** Begin with the first page again: the batch after which the next one begins has been deleted. */
  forgetCursor(): void {
    this._cursor = null;
  }

  private _restart(views: IBatchView[]): void {
    const told = new Set(views.map(view => view.batch.id));
    // An unfinished batch that is not in the snapshot was deleted, or will be in a page. Ended batches never change.
    this._batches = this._batches.filter(view => told.has(view.batch.id) || hasEnded(view.batch));
    this._byId = new Map(this._batches.map(view => [view.batch.id, view]));
    this._hasMore = this._cursor === null || this._hasMore;
    this._isKnown = true;
    [...views].reverse().forEach(view => this._keep(view, 'newest'));
  }

  private _keep(view: IBatchView, place: 'newest' | 'oldest'): void {
    const { id, created_at } = view.batch;
    const known = this._byId.has(id);
    this._byId.set(id, view);
    if (known) {
      this._batches[this._batches.findIndex(other => other.batch.id === id)] = view;
      return;
    }
    // Batches of the same second keep the server's order.
    const isBefore = (other: IBatchView): boolean =>
      place === 'newest'
        ? other.batch.created_at > created_at
        : other.batch.created_at >= created_at;
    let [low, high] = [0, this._batches.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const other = this._batches[middle];
      [low, high] = other !== undefined && isBefore(other) ? [middle + 1, high] : [low, middle];
    }
    this._batches.splice(low, 0, view);
  }

  private _keepEngine(engine: IEngine): void {
    const known = this._engines.some(other => other.id === engine.id);
    this._engines = known
      ? this._engines.map(other => (other.id === engine.id ? engine : other))
      : [...this._engines, engine];
  }

  private _batches: IBatchView[] = [];
  private _byId = new Map<string, IBatchView>();
  private _changed = new Signal<this, void>(this);
  private _connection: Connection = { kind: 'still' };
  private _cursor: string | null = null;
  private _engines: IEngine[] = [];
  private _hasMore = true;
  private _isKnown = false;
  private _problems: IProblem[] = [];
  private _selected: string | null = null;
  private _storeBytes = 0;
  private _total = 0;
}
