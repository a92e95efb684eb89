/**
 * A .jsonl file of the file browser as a table.
 */

import { ABCWidgetFactory, DocumentWidget, type DocumentRegistry } from '@jupyterlab/docregistry';

import { linesOf, type LineSource } from './lines';
import type { LinesTable } from './table';

/** The name of the file type (built into JupyterLab since 4.6), and of the view. */
export const FILE_TYPE = 'jsonl';
export const FACTORY = 'JSON Lines Table';

/**
 * Makes tables of files.
 */
export class TableFactory extends ABCWidgetFactory<DocumentWidget<LinesTable>> {
  constructor(
    options: DocumentRegistry.IWidgetFactoryOptions<DocumentWidget<LinesTable>>,
    private readonly _table: (source: LineSource) => LinesTable
  ) {
    super(options);
  }

  protected createNewWidget(context: DocumentRegistry.Context): DocumentWidget<LinesTable> {
    // Empty until the file has been read.
    const content = this._table(linesOf(''));
    const widget = new DocumentWidget({ content, context });
    void context.ready.then(() => {
      const show = (): void => content.setSource(linesOf(context.model.toString()));
      show();
      context.fileChanged.connect(show);
      content.disposed.connect(() => context.fileChanged.disconnect(show));
    });
    return widget;
  }
}
