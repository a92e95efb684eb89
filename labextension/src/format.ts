/**
 * Figures as text.
 */

import type { IEngine, IRequestCounts } from './types';

const WHOLE = new Intl.NumberFormat('en-US', { maximumFractionDigits: 0 });
const TENTHS = new Intl.NumberFormat('en-US', {
  maximumFractionDigits: 1,
  minimumFractionDigits: 1
});

/** Write a whole number: 1,234. */
export function count(value: number): string {
  return WHOLE.format(value);
}

/** Write a rate, with one decimal if it is small. */
export function rate(value: number): string {
  return value < 10 ? TENTHS.format(value) : WHOLE.format(value);
}

/** Write a fraction as a percentage. */
export function percent(fraction: number): string {
  return `${WHOLE.format(100 * fraction)}%`;
}

/** Write a size in the largest unit of which there is one: 1.5 MiB. */
export function size(bytes: number): string {
  const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
  const power = Math.min(Math.floor(Math.log2(Math.max(bytes, 1)) / 10), units.length - 1);
  return power === 0
    ? `${count(bytes)} bytes`
    : `${TENTHS.format(bytes / 1024 ** power)} ${units[power]}`;
}

/** Write a duration in whole seconds, as the widgets do: 75 is "1 min 15 s". */
export function duration(seconds: number): string {
  const whole = Math.ceil(seconds);
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  if (hours > 0) {
    return `${count(hours)} h ${minutes} min`;
  }
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/** Shorten an id as the widgets do: its kind and four characters. */
export function shortId(id: string): string {
  const shown = id.indexOf('_') + 5;
  return id.length <= shown ? id : `${id.slice(0, shown)}…`;
}

/** Return the last part of a path. */
export function baseName(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** Write a time in Unix seconds in the format of the browser's user. */
export function moment(seconds: number): string {
  return new Date(1000 * seconds).toLocaleString();
}

/** Return the percentages of completed and failed requests. */
export function shares(counts: IRequestCounts | null): { completed: number; failed: number } {
  if (counts === null || counts.total === 0) {
    return { completed: 0, failed: 0 };
  }
  return {
    completed: (100 * counts.completed) / counts.total,
    failed: (100 * counts.failed) / counts.total
  };
}

/** Return whether all, some or none of the requests have failed. */
export function failedShare(counts: IRequestCounts | null): 'all' | 'some' | 'none' {
  if (counts === null || counts.failed === 0) {
    return 'none';
  }
  return counts.failed === counts.total ? 'all' : 'some';
}

/** Return the name of an engine, or its first model if it has none. */
export function engineName(engine: IEngine): string {
  return engine.name ?? engine.models[0] ?? engine.id;
}
