/**
 * Keeps the model up to date: by the server's events, by polling if they do not arrive, and not at all while nobody
 * watches.
 */

import type { IDisposable } from '@lumino/disposable';
import { DisposableDelegate } from '@lumino/disposable';

import { EventParser } from './events';
import type { BatchesModel } from './model';
import { RefusedError } from './request';
import type { ISnapshot, ServerEvent } from './types';

/** A stream that is silent for this long is broken; the server sends a heartbeat every 15 s. */
const SILENCE_SECONDS = 40;
/** If a stream's first event does not arrive within this time, something in between holds it back. */
const FIRST_EVENT_SECONDS = 8;
/** How often to poll if events do not arrive. */
const POLL_SECONDS = 3;
/** The longest wait after failures, each of which doubles it. */
const LONGEST_WAIT_SECONDS = 30;

/** The part of the client that the updates needs. */
export interface IEventSource {
  events(signal: AbortSignal): Promise<Pick<Response, 'body'>>;
  snapshot(signal: AbortSignal): Promise<ISnapshot>;
}

/** How long to wait after so many failures in a row. */
export function waitSeconds(failures: number): number {
  return failures === 0 ? POLL_SECONDS : Math.min(2 ** (failures - 1), LONGEST_WAIT_SECONDS);
}

/**
 * Keeps a model up to date while it is watched and the page is visible.
 */
export class Updates implements IDisposable {
  constructor(
    private readonly _source: IEventSource,
    private readonly _model: BatchesModel
  ) {
    document.addEventListener('visibilitychange', this._update);
    window.addEventListener('online', this.lookNow);
  }

  /** Watch until the returned object is disposed of. */
  watch(): IDisposable {
    this._watchers += 1;
    this._update();
    return new DisposableDelegate(() => {
      this._watchers -= 1;
      this._update();
    });
  }

  /** Try again at once if the server could not be reached. */
  lookNow = (): void => {
    this._wake?.();
  };

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    this._isDisposed = true;
    document.removeEventListener('visibilitychange', this._update);
    window.removeEventListener('online', this.lookNow);
    this._update();
  }

  private readonly _update = (): void => {
    const wanted = !this._isDisposed && this._watchers > 0 && document.visibilityState !== 'hidden';
    if (wanted && this._running === null) {
      this._running = new AbortController();
      void this._run(this._running.signal);
    } else if (!wanted && this._running !== null) {
      this._running.abort();
      this._running = null;
      this._model.connection = { kind: 'still' };
    }
  };

  private async _run(stopped: AbortSignal): Promise<void> {
    const isWanted = (): boolean => !stopped.aborted;
    let failures = 0;
    while (isWanted()) {
      const hasStreamed = await this._stream(stopped);
      try {
        // Open a stream that has ended again at once; what it told is still true.
        failures = hasStreamed ? 0 : failures;
        if (!hasStreamed && isWanted()) {
          this._look(await this._source.snapshot(stopped), stopped);
          failures = 0;
        }
      } catch (error) {
        failures += 1;
        this._lose(stopped, error);
      }
      await this._wait(hasStreamed ? 0.2 : waitSeconds(failures), stopped);
    }
  }

  private _look(snapshot: ISnapshot, stopped: AbortSignal): void {
    if (!stopped.aborted) {
      this._model.apply({ name: 'snapshot', data: snapshot });
      this._model.connection = { kind: 'polling' };
    }
  }

  private _lose(stopped: AbortSignal, error: unknown): void {
    if (!stopped.aborted) {
      const reason = error instanceof Error ? error.message : String(error);
      const kind = error instanceof RefusedError ? 'refused' : 'lost';
      this._model.connection = { kind, reason };
    }
  }

  /** Apply events until there are no more. Returns whether any arrived. */
  private async _stream(stopped: AbortSignal): Promise<boolean> {
    const ended = new AbortController();
    const end = (): void => ended.abort();
    stopped.addEventListener('abort', end);
    let timer = window.setTimeout(end, 1000 * FIRST_EVENT_SECONDS);
    let hasStreamed = false;
    try {
      const response = await this._source.events(ended.signal);
      const reader = response.body?.getReader();
      const decoder = new TextDecoder();
      const parser = new EventParser();
      while (reader !== undefined) {
        const { value, done } = await reader.read();
        if (done || ended.signal.aborted) {
          break;
        }
        window.clearTimeout(timer);
        timer = window.setTimeout(
          end,
          1000 * (hasStreamed ? SILENCE_SECONDS : FIRST_EVENT_SECONDS)
        );
        const events = parser.push(decoder.decode(value, { stream: true }));
        hasStreamed = hasStreamed || events.length > 0;
        this._take(events);
      }
    } catch {
      // The poll that follows finds out why it ended.
    } finally {
      window.clearTimeout(timer);
      stopped.removeEventListener('abort', end);
      ended.abort();
    }
    return hasStreamed;
  }

  private _take(events: ServerEvent[]): void {
    if (events.length > 0 && this._model.connection.kind !== 'live') {
      this._model.connection = { kind: 'live' };
    }
    events.forEach(event => this._model.apply(event));
  }

  private _wait(seconds: number, stopped: AbortSignal): Promise<void> {
    if (stopped.aborted) {
      return Promise.resolve();
    }
    return new Promise(resolve => {
      const timer = window.setTimeout(done, 1000 * seconds);
      function done(): void {
        window.clearTimeout(timer);
        stopped.removeEventListener('abort', done);
        resolve();
      }
      stopped.addEventListener('abort', done);
      this._wake = done;
    });
  }

  private _isDisposed = false;
  private _running: AbortController | null = null;
  private _wake: (() => void) | null = null;
  private _watchers = 0;
}
