/**
 * A file of JSON lines as a table.
 */

import type { IThemeManager } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import {
  BasicKeyHandler,
  BasicMouseHandler,
  BasicSelectionModel,
  DataGrid,
  DataModel,
  TextRenderer
} from '@lumino/datagrid';
import type { Message } from '@lumino/messaging';
import { BoxLayout, Widget } from '@lumino/widgets';

import { CELL_LENGTH, cellsOf, COLUMNS, kindOf, type FileKind } from './cells';
import { count } from './format';
import { Lines, type LineSource } from './lines';

const WIDTHS: Readonly<Record<string, number>> = {
  custom_id: 120,
  model: 140,
  status_code: 90,
  tokens: 70,
  code: 160,
  line: 600
};
const TEXT_WIDTH = 420;

/**
 * The grid's view of a file; lines are loaded as they scroll into view.
 */
export class LinesModel extends DataModel {
  /**
   * @param source - Where the lines come from.
   * @param kind - The kind of the file; if it is null, the first line decides.
   * @param onChange - Called when lines have arrived, or with an error.
   */
  constructor(
    source: LineSource,
    kind: FileKind | null,
    private readonly _onChange: (error: Error | null) => void
  ) {
    super();
    this._kind = kind;
    this._lines = new Lines(
      source,
      (start, arrived) => this._arrived(start, arrived),
      error => this._onChange(error)
    );
    void this._lines.load(0);
  }

  /** The number of lines; 0 until it is known. */
  get total(): number {
    return this._rows;
  }

  rowCount(region: DataModel.RowRegion): number {
    return region === 'body' ? this._rows : 1;
  }

  columnCount(region: DataModel.ColumnRegion): number {
    return region === 'body' ? this._columns.length : 1;
  }

  /** The name of a column. */
  column(index: number): string {
    return this._columns[index] ?? '';
  }

  data(region: DataModel.CellRegion, row: number, column: number): string {
    switch (region) {
      case 'body': {
        const line = this._lines.get(row + 1);
        return line === null
          ? '…'
          : (cellsOf(line, this._kind ?? 'input', CELL_LENGTH)[column] ?? '');
      }
      case 'column-header':
        return this.column(column);
      case 'row-header':
        return count(row + 1);
      case 'corner-header':
        return '';
    }
  }

  /** All cells of a line with their names, or null if the line is not loaded yet. */
  text(row: number): string | null {
    const line = this._lines.get(row + 1);
    const cells = line === null ? null : cellsOf(line, this._kind ?? 'input');
    return cells?.map((cell, index) => `${this.column(index)}: ${cell}`).join('\n\n') ?? null;
  }

  private get _columns(): readonly string[] {
    return COLUMNS[this._kind ?? 'input'];
  }

  private _arrived(start: number, arrived: number): void {
    const first = arrived > 0 ? this._lines.get(1) : null;
    this._kind ??= first === null ? null : kindOf(first);
    if (this._rows !== this._lines.total) {
      this._rows = this._lines.total;
      this.emitChanged({ type: 'model-reset' });
    } else {
      this.emitChanged({
        type: 'cells-changed',
        region: 'body',
        row: start - 1,
        column: 0,
        rowSpan: arrived,
        columnSpan: this._columns.length
      });
    }
    this._onChange(null);
  }

  private _kind: FileKind | null;
  private readonly _lines: Lines;
  private _rows = 0;
}

/**
 * A table of a file, with the full text of the selected line below it.
 */
export class LinesTable extends Widget {
  constructor(
    private readonly _options: {
      source: LineSource;
      kind: FileKind | null;
      trans: TranslationBundle;
      themes: IThemeManager | null;
    }
  ) {
    super();
    const { trans, themes } = _options;
    this.addClass('vb-Table');
    this._grid = new DataGrid({
      defaultSizes: {
        rowHeight: 24,
        columnWidth: TEXT_WIDTH,
        rowHeaderWidth: 70,
        columnHeaderHeight: 26
      }
    });
    // The grid is a canvas, so screen readers read the selected line below it.
    this._grid.node.setAttribute('role', 'application');
    this._grid.node.tabIndex = 0;
    this._grid.keyHandler = new BasicKeyHandler();
    this._grid.mouseHandler = new BasicMouseHandler();
    this._line = new Widget();
    this._line.addClass('vb-Table-line');
    this._line.node.tabIndex = 0;
    this._line.node.setAttribute('aria-live', 'polite');
    this._line.node.setAttribute('aria-label', trans.__('The selected line'));
    const layout = new BoxLayout({ direction: 'top-to-bottom', spacing: 0 });
    layout.addWidget(this._grid);
    layout.addWidget(this._line);
    BoxLayout.setStretch(this._grid, 3);
    BoxLayout.setStretch(this._line, 1);
    this.layout = layout;
    this.setSource(_options.source);
    themes?.themeChanged.connect(this._style);
    this.disposed.connect(() => themes?.themeChanged.disconnect(this._style));
  }

  /** Show other lines. */
  setSource(source: LineSource): void {
    this._isSized = false;
    this._model = new LinesModel(source, this._options.kind, error => this._changed(error));
    this._grid.dataModel = this._model;
    const selection = new BasicSelectionModel({ dataModel: this._model, selectionMode: 'row' });
    selection.changed.connect(() => this._showLine());
    this._grid.selectionModel = selection;
  }

  /** Select a line, and scroll to it. */
  goTo(line: number): void {
    this._wanted = line;
    this._goToWanted();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._style();
  }

  protected override onActivateRequest(): void {
    this._grid.node.focus();
  }

  private _goToWanted(): void {
    const row = (this._wanted ?? 0) - 1;
    if (row < 0 || row >= this._model.total) {
      return;
    }
    this._wanted = null;
    const last = this._model.columnCount('body') - 1;
    this._grid.selectionModel?.select({
      r1: row,
      r2: row,
      c1: 0,
      c2: last,
      cursorRow: row,
      cursorColumn: 0,
      clear: 'all'
    });
    this._grid.scrollToRow(row);
  }

  private _changed(error: Error | null): void {
    if (this.isDisposed) {
      return;
    }
    if (error !== null) {
      this._line.node.textContent = error.message;
      return;
    }
    const total = this._model.total;
    const { trans } = this._options;
    this._grid.node.setAttribute(
      'aria-label',
      trans._n('A table of %1 line', 'A table of %1 lines', total, count(total))
    );
    this.node.dataset.total = String(total);
    this._sizeColumns();
    this._goToWanted();
    this._showLine();
  }

  private _sizeColumns(): void {
    // Only once, because the user may resize them too. The columns are known with the first line.
    if (this._isSized || this._model.total === 0) {
      return;
    }
    this._isSized = true;
    for (let index = 0; index < this._model.columnCount('body'); index++) {
      this._grid.resizeColumn('body', index, WIDTHS[this._model.column(index)] ?? TEXT_WIDTH);
    }
  }

  private _showLine(): void {
    const selection = this._grid.selectionModel?.currentSelection();
    if (!selection) {
      this._line.node.textContent = this._options.trans.__('Select a line to read all of it.');
      return;
    }
    // As text, never as HTML: a model wrote it.
    this._line.node.textContent = this._model.text(selection.r1) ?? '…';
  }

  private readonly _style = (): void => {
    const style = window.getComputedStyle(this.node);
    const color = (name: string): string => style.getPropertyValue(name).trim();
    this._grid.style = {
      ...DataGrid.defaultStyle,
      voidColor: color('--jp-layout-color0'),
      backgroundColor: color('--jp-layout-color1'),
      headerBackgroundColor: color('--jp-layout-color2'),
      gridLineColor: color('--jp-border-color2'),
      headerGridLineColor: color('--jp-border-color2'),
      selectionFillColor: 'rgba(33, 150, 243, 0.2)',
      selectionBorderColor: color('--jp-brand-color1'),
      cursorBorderColor: color('--jp-brand-color1'),
      headerSelectionFillColor: 'rgba(33, 150, 243, 0.15)',
      headerSelectionBorderColor: color('--jp-brand-color1')
    };
    const renderer = new TextRenderer({
      font: `${color('--jp-ui-font-size1') || '13px'} ${color('--jp-ui-font-family') || 'sans-serif'}`,
      textColor: color('--jp-ui-font-color1'),
      horizontalAlignment: 'left',
      // Show each row as one line.
      format: ({ value }) => String(value).replaceAll(/\s+/g, ' ')
    });
    this._grid.cellRenderers.update({
      body: renderer,
      'column-header': renderer,
      'row-header': renderer,
      'corner-header': renderer
    });
  };

  private readonly _grid: DataGrid;
  private readonly _line: Widget;
  private _model!: LinesModel;
  private _isSized = false;
  private _wanted: number | null = null;
}
