/**
 * The panel on the left: engines at the top, then batches, and the selected batch at the bottom.
 */

import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { IDisposable } from '@lumino/disposable';
import type { Message } from '@lumino/messaging';
import React from 'react';

import { BatchDetails } from './details';
import { EngineList, Problems } from './engines';
import type { Updates } from './updates';
import { batchesIcon } from './icon';
import { BatchList } from './list';
import type { BatchesModel, Connection } from './model';

/** What the panel needs. */
export interface IPanelOptions {
  model: BatchesModel;
  updates: Updates;
  commands: CommandRegistry;
  trans: TranslationBundle;
  /** Ask for older batches. */
  loadMore: () => void;
}

/**
 * Draws the model, and watches the server, only while it is visible.
 */
export class BatchesPanel extends ReactWidget {
  constructor(private readonly _options: IPanelOptions) {
    super();
    const { trans } = _options;
    this.id = 'vbatch-batches';
    this.addClass('vb-Panel');
    this.title.icon = batchesIcon;
    this.title.caption = trans.__('Batches');
    this.node.setAttribute('role', 'region');
    this.node.setAttribute('aria-label', trans.__('Batches'));
  }

  protected override onAfterShow(message: Message): void {
    super.onAfterShow(message);
    this._begin();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    if (this.isVisible) {
      this._begin();
    }
  }

  protected override onBeforeHide(message: Message): void {
    this._end();
    super.onBeforeHide(message);
  }

  protected override onBeforeDetach(message: Message): void {
    this._end();
    super.onBeforeDetach(message);
  }

  protected override render(): React.ReactElement {
    return <PanelBody {...this._options} />;
  }

  private _begin(): void {
    this._watching ??= this._options.updates.watch();
    this._options.model.changed.connect(this._changed);
    this.update();
  }

  private _end(): void {
    this._options.model.changed.disconnect(this._changed);
    this._watching?.dispose();
    this._watching = null;
  }

  private readonly _changed = (): void => {
    // Lumino draws once for several changes in a row.
    this.update();
  };

  private _watching: IDisposable | null = null;
}

function PanelBody(options: IPanelOptions): React.ReactElement {
  const { model, updates, commands, trans, loadMore } = options;
  const selected = model.selected;
  return (
    <>
      <ConnectionLine connection={model.connection} onRetry={updates.lookNow} trans={trans} />
      <Problems problems={model.problems} trans={trans} />
      <EngineList engines={model.engines} commands={commands} trans={trans} />
      <BatchList model={model} commands={commands} trans={trans} loadMore={loadMore} />
      {selected !== null && (
        <BatchDetails
          view={selected}
          commands={commands}
          onClose={() => model.select(null)}
          trans={trans}
        />
      )}
    </>
  );
}

function ConnectionLine(props: {
  connection: Connection;
  onRetry: () => void;
  trans: TranslationBundle;
}): React.ReactElement {
  const { connection, onRetry, trans } = props;
  return (
    <div className="vb-Connection" role="status" data-connection={connection.kind}>
      {connection.kind === 'polling' &&
        trans.__('Events do not arrive, so this is updated every few seconds.')}
      {(connection.kind === 'lost' || connection.kind === 'refused') && (
        <>
          <span>
            {connection.kind === 'lost'
              ? trans.__('The server does not answer: %1', connection.reason)
              : connection.reason}
          </span>
          <button className="vb-Button" onClick={onRetry}>
            {trans.__('Try now')}
          </button>
        </>
      )}
    </div>
  );
}
