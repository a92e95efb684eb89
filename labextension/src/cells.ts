/**
 * Turns a line of a batch's file into the cells of a table.
 */

import type { ILine } from './types';

/** The kind of a file: requests, responses, or errors. */
export type FileKind = 'input' | 'output' | 'error';

/** What each column is called. */
export const COLUMNS: Readonly<Record<FileKind, readonly string[]>> = {
  input: ['custom_id', 'model', 'prompt', 'line'],
  output: ['custom_id', 'status_code', 'response', 'tokens', 'line'],
  error: ['custom_id', 'status_code', 'code', 'message', 'line']
};

/** The longest text of a cell in a grid, because the grid measures all of it. */
export const CELL_LENGTH = 2000;

/** Return the cells of a line in the order of the columns, each at most `most` characters long. */
export function cellsOf(line: ILine, kind: FileKind, most = Infinity): string[] {
  const cut = (value: string): string => (value.length > most ? `${value.slice(0, most)}…` : value);
  const raw = cut(line.text ?? JSON.stringify(line.json)) + (line.truncated ? ' …' : '');
  const json = line.json;
  const customId = text(at(json, 'custom_id'));
  switch (kind) {
    case 'input':
      return [customId, text(at(json, 'body', 'model')), cut(promptOf(at(json, 'body'))), raw];
    case 'output': {
      const body = at(json, 'response', 'body');
      return [
        customId,
        text(at(json, 'response', 'status_code')),
        cut(answerOf(body)),
        text(at(body, 'usage', 'total_tokens')),
        raw
      ];
    }
    case 'error': {
      const error = at(json, 'error') ?? at(json, 'response', 'body', 'error');
      return [
        customId,
        text(at(json, 'response', 'status_code')),
        text(at(error, 'code')),
        cut(text(at(error, 'message'))),
        raw
      ];
    }
  }
}

/** Guess the kind of a file from one of its lines. */
export function kindOf(line: ILine): FileKind {
  const json = line.json;
  if (at(json, 'response') === undefined && at(json, 'error') === undefined) {
    return 'input';
  }
  return at(json, 'error') ? 'error' : 'output';
}

function promptOf(body: unknown): string {
  const messages = at(body, 'messages');
  if (Array.isArray(messages)) {
    return textOf(at(messages.at(-1), 'content'));
  }
  return textOf(at(body, 'prompt') ?? at(body, 'input'));
}

function answerOf(body: unknown): string {
  const choice = at(body, 'choices', 0);
  if (choice !== undefined) {
    return textOf(
      at(choice, 'message', 'content') ?? at(choice, 'text') ?? at(choice, 'message', 'tool_calls')
    );
  }
  const embedding = at(body, 'data', 0, 'embedding');
  if (Array.isArray(embedding)) {
    return `[${embedding.slice(0, 3).map(text).join(', ')}, …] (${embedding.length})`;
  }
  return textOf(at(body, 'output', 0, 'content') ?? at(body, 'error', 'message'));
}

/** Return the text of a content, which is a string or a list of parts. */
function textOf(content: unknown): string {
  if (Array.isArray(content)) {
    const parts = content.map(part => at(part, 'text')).filter(part => typeof part === 'string');
    return parts.length > 0 ? parts.join(' ') : text(content);
  }
  return text(content);
}

function text(value: unknown): string {
  if (value === undefined || value === null) {
    return '';
  }
  return typeof value === 'string' ? value : JSON.stringify(value);
}

/** Follow keys into a value; undefined if one of them does not exist. */
function at(value: unknown, ...keys: (string | number)[]): unknown {
  let found = value;
  for (const key of keys) {
    if (typeof found !== 'object' || found === null) {
      return undefined;
    }
    found = (found as Record<string | number, unknown>)[key];
  }
  return found;
}
