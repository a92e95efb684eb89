/**
 * How fast a batch advances and when it will be done, from earlier observations.
 */

import type { IBatch } from './types';

const WINDOW_SECONDS = 60;

/** Requests that have ended, one way or the other. */
export function ended(batch: IBatch): number {
  const counts = batch.request_counts;
  return counts === null ? 0 : counts.completed + counts.failed;
}

/**
 * The observations of one batch within the last minute.
 */
export class Rate {
  /** Add an observation; `seconds` is the time of any clock. */
  see(batch: IBatch, seconds: number): void {
    const last = this._seen.at(-1);
    // An observation from before a recovery may have counted requests that run again.
    if (last !== undefined && ended(batch) < last.ended) {
      this._seen = [];
    }
    this._seen.push({ seconds, ended: ended(batch) });
    while (
      this._seen.length > 2 &&
      (this._seen[1]?.seconds ?? seconds) < seconds - WINDOW_SECONDS
    ) {
      this._seen.shift();
    }
    // A pause, such as the wait for an engine, says nothing about the speed after it.
    if (this._seen.every(one => one.ended === ended(batch))) {
      this._seen = this._seen.slice(-1);
    }
  }

  /** Requests per second, or null if it is not known yet. */
  get requestsPerSecond(): number | null {
    const first = this._seen[0];
    const last = this._seen.at(-1);
    if (first === undefined || last === undefined || last.seconds <= first.seconds) {
      return null;
    }
    return (last.ended - first.ended) / (last.seconds - first.seconds);
  }

  /** How long the remaining requests take at this rate, from `now` on, or null if it is not known. */
  secondsLeft(batch: IBatch, now: number): number | null {
    const rate = this.requestsPerSecond;
    const last = this._seen.at(-1);
    if (
      batch.status !== 'in_progress' ||
      batch.request_counts === null ||
      !rate ||
      last === undefined
    ) {
      return null;
    }
    const left = (batch.request_counts.total - ended(batch)) / rate;
    return Math.max(0, left - (now - last.seconds));
  }

  private _seen: { seconds: number; ended: number }[] = [];
}
