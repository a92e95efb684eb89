/**
 * The client of the server's endpoints; the panel talks to nothing else.
 */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import type { IBatch, IBatchPage, ICheck, IFile, ILinePage, ISnapshot } from './types';

/** The server refused a request; the message is the server's. */
export class RefusedError extends Error {
  constructor(
    message: string,
    readonly status: number
  ) {
    super(message);
    this.name = 'RefusedError';
  }
}

interface IErrorEnvelope {
  error?: { message?: string };
  message?: string;
}

/**
 * The client of the server.
 */
export class VBatchClient {
  constructor(private readonly _settings: ServerConnection.ISettings) {}

  /** Start listening to events; the response's body is a stream. */
  events(signal: AbortSignal): Promise<Response> {
    return this._request('events', { signal, cache: 'no-store' });
  }

  /** Ask once for the snapshot that events begin with. */
  snapshot(signal: AbortSignal): Promise<ISnapshot> {
    return this._json('snapshot', { signal });
  }

  /** List batches, newest first, starting after `after`. */
  batches(after: string | null, limit: number): Promise<IBatchPage> {
    const query = { limit: String(limit), ...(after === null ? {} : { after }) };
    return this._json(`batches${URLExt.objectToQueryString(query)}`);
  }

  /** Cancel a batch. */
  cancel(id: string): Promise<IBatch> {
    return this._json(`v1/batches/${encodeURIComponent(id)}/cancel`, { method: 'POST' });
  }

  /** Continue a batch that is paused. */
  resume(id: string): Promise<IBatch> {
    return this._json(`batches/${encodeURIComponent(id)}/resume`, { method: 'POST' });
  }

  /** Make a new batch of the requests of a batch that have no answer. */
  retry(id: string): Promise<IBatch> {
    return this._json(`batches/${encodeURIComponent(id)}/retry`, { method: 'POST' });
  }

  /** Create a batch from an uploaded file. */
  create(inputFileId: string, endpoint: string): Promise<IBatch> {
    const body = { input_file_id: inputFileId, endpoint, completion_window: '24h' };
    return this._json('v1/batches', { method: 'POST', body: JSON.stringify(body) });
  }

  /** Upload an input file. */
  upload(content: Blob, filename: string): Promise<IFile> {
    const body = new FormData();
    body.append('purpose', 'batch');
    body.append('file', content, filename);
    return this._json('v1/files', { method: 'POST', body });
  }

  /** Delete a file. */
  deleteFile(id: string): Promise<unknown> {
    return this._json(`v1/files/${encodeURIComponent(id)}`, { method: 'DELETE' });
  }

  /** Ask what a batch service would refuse or ignore in a file. */
  check(fileId: string, target: string): Promise<ICheck> {
    return this._json('check', {
      method: 'POST',
      body: JSON.stringify({ file_id: fileId, target })
    });
  }

  /** Read some lines of a file. */
  lines(fileId: string, start: number, limit: number): Promise<ILinePage> {
    const query = URLExt.objectToQueryString({ start: String(start), limit: String(limit) });
    return this._json(`files/${encodeURIComponent(fileId)}/lines${query}`);
  }

  /** Load a model in a kernel; one that the server starts itself needs no model. */
  load(engine: string, model: string | null): Promise<unknown> {
    const body = model === null ? null : JSON.stringify({ model, flags: [] });
    return this._json(`engines/${encodeURIComponent(engine)}/load`, { method: 'POST', body });
  }

  /** Unload the model of an engine. */
  unload(engine: string): Promise<unknown> {
    return this._json(`engines/${encodeURIComponent(engine)}/unload`, { method: 'POST' });
  }

  private async _json<T>(path: string, init: RequestInit = {}): Promise<T> {
    const response = await this._request(path, init);
    return (await response.json()) as T;
  }

  private async _request(path: string, init: RequestInit): Promise<Response> {
    const url = URLExt.join(this._settings.baseUrl, 'vbatch', path);
    const response = await ServerConnection.makeRequest(url, init, this._settings);
    if (!response.ok) {
      throw new RefusedError(await messageOf(response), response.status);
    }
    return response;
  }
}

async function messageOf(response: Response): Promise<string> {
  const text = await response.text();
  try {
    const body = JSON.parse(text) as IErrorEnvelope;
    return body.error?.message ?? body.message ?? response.statusText;
  } catch {
    // The answer may come from a proxy and have another format.
    return text.slice(0, 200) || response.statusText;
  }
}
