/**
 * The commands of batches and engines.
 */

import type { JupyterFrontEnd } from '@jupyterlab/application';
import { Clipboard, InputDialog, Notification, showDialog, Dialog } from '@jupyterlab/apputils';
import type { INotebookTracker } from '@jupyterlab/notebook';
import { NotebookActions } from '@jupyterlab/notebook';
import type { TranslationBundle } from '@jupyterlab/translation';

import { CommandIDs } from './commandIds';
import { shortId } from './format';
import type { BatchesModel } from './model';
import { isCancellable, isPaused } from './model';
import { RefusedError, type VBatchClient } from './request';
import { attachCell, openAICell } from './snippets';
import type { FileKind } from './cells';
import type { IBatchView } from './types';

/** What the commands need. */
export interface IActionOptions {
  app: JupyterFrontEnd;
  model: BatchesModel;
  client: VBatchClient;
  tracker: INotebookTracker | null;
  trans: TranslationBundle;
  /** Show a file of the store as a table. */
  openFile: (fileId: string, title: string, kind: FileKind, line: number | null) => void;
}

const SERVICE_UNAVAILABLE = 503;

type Args = Readonly<Record<string, unknown>>;

/** Insert a cell below the active cell of the notebook used last. Returns whether there is a notebook. */
export async function insertCell(
  tracker: INotebookTracker | null,
  source: string
): Promise<boolean> {
  const panel = tracker?.currentWidget;
  if (!panel) {
    return false;
  }
  // A cell that is inserted while the notebook loads would be lost.
  await panel.context.ready;
  NotebookActions.insertBelow(panel.content);
  panel.content.activeCell?.model.sharedModel.setSource(source);
  return true;
}

/** Do something that the server may refuse, and show its message if it does. */
export async function orNotify(action: () => Promise<unknown>): Promise<void> {
  try {
    await action();
  } catch (error) {
    Notification.error(error instanceof Error ? error.message : String(error), {
      autoClose: 10000
    });
  }
}

/** Add the commands of batches. */
export function addBatchCommands(options: IActionOptions): void {
  const { app, model, client, tracker, trans, openFile } = options;
  const viewOf = (args: Args): IBatchView | null =>
    typeof args.id === 'string' ? model.find(args.id) : model.selected;
  const add = (
    id: string,
    label: string | ((view: IBatchView | null) => string),
    caption: string,
    execute: (view: IBatchView, args: Args) => unknown,
    isEnabled: (view: IBatchView) => boolean = () => true,
    isVisible: (view: IBatchView) => boolean = () => true
  ): void => {
    app.commands.addCommand(id, {
      label: args => {
        const text = typeof label === 'string' ? label : label(viewOf(args));
        return args.isPalette ? trans.__('%1 (selected batch)', text) : text;
      },
      caption,
      isEnabled: args => {
        const view = viewOf(args);
        return view !== null && isVisible(view) && isEnabled(view);
      },
      isVisible: args => {
        const view = viewOf(args);
        return view !== null && isVisible(view);
      },
      execute: args => {
        const view = viewOf(args);
        return view === null ? undefined : execute(view, args);
      }
    });
  };
  const hasNotebook = (): boolean => Boolean(tracker?.currentWidget);
  const tabOf = (view: IBatchView, kind: FileKind): string =>
    `${shortId(view.batch.id)} ${{ input: trans.__('input'), output: trans.__('output'), error: trans.__('errors') }[kind]}`;

  add(
    CommandIDs.cancel,
    trans.__('Cancel'),
    trans.__('Cancel the batch and keep finished answers'),
    view => orNotify(() => client.cancel(view.batch.id)),
    view => isCancellable(view.batch),
    view => isCancellable(view.batch)
  );
  add(
    CommandIDs.resume,
    trans.__('Resume'),
    trans.__('Continue the paused batch'),
    view => orNotify(() => client.resume(view.batch.id)),
    isPaused,
    isPaused
  );
  add(
    CommandIDs.retry,
    view => view?.retry_label ?? trans.__('Retry failed'),
    trans.__('Run the requests without an answer in a new batch'),
    view =>
      orNotify(async () => {
        const made = await client.retry(view.batch.id);
        Notification.success(trans.__('The new batch is %1.', made.id), { autoClose: 5000 });
      }),
    view => view.has_unanswered,
    view => view.has_unanswered
  );
  add(
    CommandIDs.openInput,
    trans.__('Input'),
    trans.__('Show the input file as a table'),
    (view, args) =>
      openFile(
        view.batch.input_file_id,
        tabOf(view, 'input'),
        'input',
        typeof args.line === 'number' ? args.line : null
      )
  );
  add(
    CommandIDs.openOutput,
    trans.__('Output'),
    trans.__('Show the output file as a table'),
    view => openFile(view.batch.output_file_id ?? '', tabOf(view, 'output'), 'output', null),
    view => Boolean(view.batch.output_file_id)
  );
  add(
    CommandIDs.openErrors,
    trans.__('Errors'),
    trans.__('Show the error file as a table'),
    view => openFile(view.batch.error_file_id ?? '', tabOf(view, 'error'), 'error', null),
    view => Boolean(view.batch.error_file_id)
  );
  add(
    CommandIDs.copyId,
    trans.__('Copy id'),
    trans.__('Copy the id of the batch to the clipboard'),
    view => Clipboard.copyToSystem(view.batch.id)
  );
  add(
    CommandIDs.insertAttach,
    trans.__('Insert %vbatch attach'),
    trans.__('Insert a cell into the active notebook that attaches to the batch'),
    view => insertCell(tracker, attachCell(view.batch.id)),
    hasNotebook
  );
  add(
    CommandIDs.insertOpenAI,
    trans.__('Insert OpenAI code'),
    trans.__("Insert a cell into the active notebook that reads the batch with OpenAI's SDK"),
    view => insertCell(tracker, openAICell(view.batch.id)),
    hasNotebook
  );
}

function unlessStarting(error: unknown): void {
  if (!(error instanceof RefusedError && error.status === SERVICE_UNAVAILABLE)) {
    throw error;
  }
}

/** Add the commands of engines; their arguments name the engine. */
export function addEngineCommands(options: IActionOptions): void {
  const { app, client, trans } = options;
  app.commands.addCommand(CommandIDs.load, {
    label: trans.__('Load a model'),
    isVisible: args => typeof args.engine === 'string',
    execute: args =>
      orNotify(async () => {
        const engine = args.engine as string;
        if (args.isPlanned === true) {
          // The server starts this engine itself and knows its model. The panel shows its progress anyway.
          await client.load(engine, null).catch(unlessStarting);
          return;
        }
        const asked = await InputDialog.getText({
          title: trans.__('Load a model in the kernel'),
          label: trans.__('A Hugging Face id, a folder, or "demo"'),
          // The name of the model that it had.
          text: typeof args.name === 'string' ? args.name : 'demo',
          okLabel: trans.__('Load')
        });
        if (asked.button.accept && asked.value) {
          await client.load(engine, asked.value.trim());
        }
      })
  });
  app.commands.addCommand(CommandIDs.unload, {
    label: trans.__('Unload the model'),
    isVisible: args => typeof args.engine === 'string',
    execute: args =>
      orNotify(async () => {
        const asked = await showDialog({
          title: trans.__('Unload the model?'),
          body: trans.__(
            'Running batches stay in progress, and continue when their model is loaded again.'
          ),
          buttons: [
            Dialog.cancelButton({ label: trans.__('Keep') }),
            Dialog.okButton({ label: trans.__('Unload') })
          ]
        });
        if (asked.button.accept) {
          await client.unload(args.engine as string);
        }
      })
  });
}
