/**
 * From a file of the file browser to a batch.
 */

import { Dialog, Notification } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';
import { ServerConnection, type Contents } from '@jupyterlab/services';
import type { TranslationBundle } from '@jupyterlab/translation';

import { insertCell } from './actions';
import { baseName } from './format';
import type { VBatchClient } from './request';
import { RunBody, type IRunChoice } from './runDialog';
import { runCell } from './snippets';

/** What is needed to run a file. */
export interface IRunFileOptions {
  path: string;
  contents: Contents.IManager;
  settings: ServerConnection.ISettings;
  client: VBatchClient;
  tracker: INotebookTracker | null;
  trans: TranslationBundle;
}

/** Ask how to run a file, and run it. Returns the id of the batch, or null if none was made. */
export async function runFile(options: IRunFileOptions): Promise<string | null> {
  const { path, client, tracker, trans } = options;
  const content = await read(options);
  const file = await client.upload(content, baseName(path));
  let isKept = false;
  try {
    const body = new RunBody({
      filename: path,
      check: target => client.check(file.id, target),
      trans
    });
    const dialog = new Dialog<IRunChoice>({
      title: trans.__('Run as batch'),
      body,
      buttons: [
        Dialog.cancelButton({ label: trans.__('Cancel') }),
        Dialog.okButton({ label: trans.__('Run') })
      ]
    });
    const answer = await dialog.launch();
    if (!answer.button.accept || answer.value === null) {
      return null;
    }
    const { target } = answer.value;
    if (target !== 'here') {
      if (!(await insertCell(tracker, runCell(path, target)))) {
        Notification.warning(
          trans.__('Open a notebook first. Its kernel has the API key for %1.', target)
        );
      }
      return null;
    }
    const endpoint = answer.value.endpoint ?? (await client.check(file.id, 'here')).endpoint;
    const batch = await client.create(file.id, endpoint);
    isKept = true;
    return batch.id;
  } finally {
    if (!isKept) {
      await client.deleteFile(file.id);
    }
  }
}

/** Read a file as bytes: it may be large, and the check reports what is not text. */
async function read(options: IRunFileOptions): Promise<Blob> {
  const url = await options.contents.getDownloadUrl(options.path);
  const response = await ServerConnection.makeRequest(url, {}, options.settings);
  if (!response.ok) {
    throw new ServerConnection.ResponseError(response);
  }
  return response.blob();
}
