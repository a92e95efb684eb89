/**
 * The plug-ins for JupyterLab: the panel, the table of files, the status bar and the list of running kernels.
 */

import {
  ILayoutRestorer,
  type JupyterFrontEnd,
  type JupyterFrontEndPlugin
} from '@jupyterlab/application';
import {
  ICommandPalette,
  IThemeManager,
  MainAreaWidget,
  WidgetTracker
} from '@jupyterlab/apputils';
import type { DocumentWidget } from '@jupyterlab/docregistry';
import { IFileBrowserFactory } from '@jupyterlab/filebrowser';
import { ILauncher } from '@jupyterlab/launcher';
import { INotebookTracker } from '@jupyterlab/notebook';
import { IRunningSessionManagers } from '@jupyterlab/running';
import { ISettingRegistry } from '@jupyterlab/settingregistry';
import { IStatusBar } from '@jupyterlab/statusbar';
import { ITranslator, nullTranslator, type TranslationBundle } from '@jupyterlab/translation';
import type { IDisposable } from '@lumino/disposable';

import { addBatchCommands, addEngineCommands, orNotify } from './actions';
import type { FileKind } from './cells';
import { BATCH_COMMANDS, CommandIDs } from './commandIds';
import { FACTORY, FILE_TYPE, TableFactory } from './document';
import { Updates } from './updates';
import { batchesIcon } from './icon';
import { BatchesModel } from './model';
import { BatchesPanel } from './panel';
import { RefusedError, VBatchClient } from './request';
import { runFile } from './runFile';
import { runningBatches } from './running';
import { StatusItem } from './status';
import { LinesTable } from './table';
import { IBatches } from './tokens';

/** How many older batches to ask for at once. */
const PAGE_BATCHES = 500;
const NOT_FOUND = 404;

const transOf = (translator: ITranslator | null): TranslationBundle =>
  (translator ?? nullTranslator).load('vbatch_jupyter');

const core: JupyterFrontEndPlugin<IBatches> = {
  id: 'vbatch-jupyter:core',
  description: 'Batches and engines, and the client of their server.',
  autoStart: true,
  provides: IBatches,
  optional: [ITranslator, IThemeManager],
  activate: (
    app: JupyterFrontEnd,
    translator: ITranslator | null,
    themes: IThemeManager | null
  ) => {
    const model = new BatchesModel();
    const client = new VBatchClient(app.serviceManager.serverSettings);
    const updates = new Updates(client, model);
    const trans = transOf(translator);
    return {
      model,
      client,
      updates,
      table: (source, kind) => new LinesTable({ source, kind, trans, themes })
    };
  }
};

const panel: JupyterFrontEndPlugin<void> = {
  id: 'vbatch-jupyter:plugin',
  description: 'The panel of batches and engines, and their commands.',
  autoStart: true,
  requires: [IBatches],
  optional: [ITranslator, ILayoutRestorer, ICommandPalette, ILauncher, INotebookTracker],
  activate: (
    app: JupyterFrontEnd,
    batches: IBatches,
    translator: ITranslator | null,
    restorer: ILayoutRestorer | null,
    palette: ICommandPalette | null,
    launcher: ILauncher | null,
    tracker: INotebookTracker | null
  ) => {
    const trans = transOf(translator);
    const { model, client, updates } = batches;
    const options = { app, model, client, tracker, trans, openFile: fileOpener(app, batches) };
    addBatchCommands(options);
    addEngineCommands(options);
    const widget = new BatchesPanel({
      model,
      updates,
      commands: app.commands,
      trans,
      loadMore: pageLoader(batches)
    });
    app.shell.add(widget, 'left', { rank: 450, type: 'Batches' });
    restorer?.add(widget, widget.id);
    app.commands.addCommand(CommandIDs.open, {
      label: args => (args.isPalette ? trans.__('Show the Batches') : trans.__('Batches')),
      caption: trans.__('Show batches and engines'),
      icon: args => (args.isPalette ? undefined : batchesIcon),
      execute: args => {
        if (typeof args.id === 'string') {
          model.select(args.id);
        }
        app.shell.activateById(widget.id);
        widget.node.querySelector<HTMLElement>('[role=listbox]')?.focus();
      }
    });
    launcher?.add({ command: CommandIDs.open, category: trans.__('Other'), rank: 5 });
    [CommandIDs.open, ...BATCH_COMMANDS].forEach(command =>
      palette?.addItem({ command, category: trans.__('Batches'), args: { isPalette: true } })
    );
    // The panel's buttons are enabled only if there is a notebook to insert into.
    tracker?.currentChanged.connect(() => widget.update());
  }
};

const status: JupyterFrontEndPlugin<void> = {
  id: 'vbatch-jupyter:status',
  description: 'Running batches and tokens per second in the status bar.',
  autoStart: true,
  requires: [IBatches],
  // Notebook 7 has no status bar, and most of its pages have no list of running kernels.
  optional: [IStatusBar, ITranslator, ISettingRegistry],
  activate: async (
    app: JupyterFrontEnd,
    { model, updates }: IBatches,
    statusBar: IStatusBar | null,
    translator: ITranslator | null,
    registry: ISettingRegistry | null
  ) => {
    if (statusBar === null) {
      return;
    }
    const trans = transOf(translator);
    let shown: IDisposable[] = [];
    const show = (isWanted: boolean): void => {
      shown.forEach(one => one.dispose());
      shown = [];
      if (isWanted) {
        const item = new StatusItem(model, () => void app.commands.execute(CommandIDs.open), trans);
        shown = [
          statusBar.registerStatusItem('vbatch-jupyter:status', { item, align: 'left', rank: 30 }),
          item,
          updates.watch()
        ];
      }
    };
    const settings = await registry?.load('vbatch-jupyter:plugin').catch(() => undefined);
    const read = (): void => show(settings?.get('statusBar').composite !== false);
    settings?.changed.connect(read);
    read();
  }
};

const running: JupyterFrontEndPlugin<void> = {
  id: 'vbatch-jupyter:running',
  description: 'Running batches in the list of running kernels.',
  autoStart: true,
  requires: [IBatches],
  optional: [IRunningSessionManagers, ITranslator],
  activate: (
    app: JupyterFrontEnd,
    { model, client, updates }: IBatches,
    managers: IRunningSessionManagers | null,
    translator: ITranslator | null
  ) => {
    const open = (id: string): void => void app.commands.execute(CommandIDs.open, { id });
    managers?.add(runningBatches(model, client, open, updates.lookNow, transOf(translator)));
  }
};

const files: JupyterFrontEndPlugin<void> = {
  id: 'vbatch-jupyter:files',
  description: 'JSON lines as a table, and "Run as batch…" in the file browser.',
  autoStart: true,
  requires: [IBatches],
  optional: [ITranslator, IFileBrowserFactory, INotebookTracker],
  activate: (
    app: JupyterFrontEnd,
    { client, table }: IBatches,
    translator: ITranslator | null,
    browsers: IFileBrowserFactory | null,
    tracker: INotebookTracker | null
  ) => {
    const trans = transOf(translator);
    if (app.docRegistry.getFileType(FILE_TYPE) === undefined) {
      app.docRegistry.addFileType({
        name: FILE_TYPE,
        displayName: trans.__('JSON Lines'),
        extensions: ['.jsonl'],
        mimeTypes: ['application/jsonl'],
        contentType: 'file',
        fileFormat: 'text'
      });
    }
    const factory = new TableFactory(
      {
        name: FACTORY,
        label: trans.__('JSON Lines Table'),
        fileTypes: [FILE_TYPE],
        defaultFor: [FILE_TYPE],
        readOnly: true,
        translator: translator ?? nullTranslator
      },
      source => table(source, null)
    );
    const tables = new WidgetTracker<DocumentWidget<LinesTable>>({ namespace: 'vbatch-tables' });
    factory.widgetCreated.connect((_, widget) => void tables.add(widget));
    app.docRegistry.addWidgetFactory(factory);
    app.commands.addCommand(CommandIDs.runFile, {
      label: trans.__('Run as Batch…'),
      caption: trans.__('Run the requests of the file'),
      icon: batchesIcon,
      isVisible: () => selectedPath(browsers) !== null,
      execute: () =>
        orNotify(async () => {
          const path = selectedPath(browsers);
          if (path !== null) {
            const { contents, serverSettings: settings } = app.serviceManager;
            const id = await runFile({ path, contents, settings, client, tracker, trans });
            if (id !== null) {
              await app.commands.execute(CommandIDs.open, { id });
            }
          }
        })
    });
  }
};

function selectedPath(browsers: IFileBrowserFactory | null): string | null {
  const [item] = browsers?.tracker.currentWidget?.selectedItems() ?? [];
  return item?.type === 'file' && item.path.endsWith('.jsonl') ? item.path : null;
}

/** Return a function that asks for older batches, one page at a time. */
function pageLoader({ model, client }: IBatches): () => void {
  let isLoading = false;
  return () => {
    if (isLoading) {
      return;
    }
    isLoading = true;
    client
      .batches(model.cursor, PAGE_BATCHES)
      .then(page => model.addPage(page))
      .catch((error: unknown) => {
        if (error instanceof RefusedError && error.status === NOT_FOUND) {
          model.forgetCursor();
        }
        // The connection line shows any other problem; this is tried again later.
        return new Promise(resolve => setTimeout(resolve, 3000));
      })
      .finally(() => (isLoading = false))
      .catch(() => undefined);
  };
}

/** Return a function that shows a file of the store as a table: the open one, or a new one. */
function fileOpener(
  app: JupyterFrontEnd,
  { client, table }: IBatches
): (fileId: string, title: string, kind: FileKind, line: number | null) => void {
  return (fileId, title, kind, line) => {
    const id = `vbatch-file-${fileId}`;
    const open = [...app.shell.widgets('main')].find(widget => widget.id === id);
    const content =
      open instanceof MainAreaWidget && open.content instanceof LinesTable
        ? open.content
        : table((start, limit) => client.lines(fileId, start, limit), kind);
    if (open === undefined) {
      const widget = new MainAreaWidget({ content });
      widget.id = id;
      widget.title.label = title;
      widget.title.caption = fileId;
      widget.title.icon = batchesIcon;
      widget.title.closable = true;
      app.shell.add(widget, 'main');
    }
    app.shell.activateById(id);
    if (line !== null) {
      content.goTo(line);
    }
  };
}

export default [core, panel, status, running, files];
