/**
 * What the plug-ins share.
 */

import { Token } from '@lumino/coreutils';

import type { Updates } from './updates';
import type { BatchesModel } from './model';
import type { VBatchClient } from './request';
import type { LinesTable } from './table';
import type { FileKind } from './cells';
import type { LineSource } from './lines';

/** Batches and engines, and the client of their server. */
export interface IBatches {
  model: BatchesModel;
  updates: Updates;
  client: VBatchClient;
  /** Make a table of JSON lines. */
  table: (source: LineSource, kind: FileKind | null) => LinesTable;
}

export const IBatches = new Token<IBatches>(
  'vbatch-jupyter:IBatches',
  'Batches and engines, and the client of their server.'
);
