/**
 * Reads server-sent events from a response's text as it arrives.
 */

import type { ServerEvent } from './types';

const NAMES: readonly string[] = ['snapshot', 'batch', 'engine', 'engine_gone'];

/**
 * Splits a stream of text into events, wherever its pieces end.
 */
export class EventParser {
  /**
   * Return the events that a piece of text completes. Comments (the server's heartbeats) and events with unknown names
   * are left out.
   */
  push(text: string): ServerEvent[] {
    const blocks = (this._rest + text).split('\n\n');
    this._rest = blocks.pop() ?? '';
    return blocks.flatMap(block => parseBlock(block) ?? []);
  }

  private _rest = '';
}

function parseBlock(block: string): ServerEvent | null {
  let name = '';
  const data: string[] = [];
  for (const line of block.split('\n')) {
    if (line.startsWith('event:')) {
      name = line.slice('event:'.length).trim();
    } else if (line.startsWith('data:')) {
      data.push(line.slice('data:'.length).trimStart());
    }
  }
  if (!NAMES.includes(name) || data.length === 0) {
    return null;
  }
  return { name, data: JSON.parse(data.join('\n')) as unknown } as ServerEvent;
}
