/**
 * The item in the status bar: how many batches are running, and how fast the engines are.
 */

import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import React from 'react';

import { rate } from './format';
import { batchesIcon } from './icon';
import type { BatchesModel } from './model';

/** One line about the running batches; a click shows the panel. */
export class StatusItem extends ReactWidget {
  constructor(
    private readonly _model: BatchesModel,
    private readonly _open: () => void,
    private readonly _trans: TranslationBundle
  ) {
    super();
    this.addClass('vb-Status');
  }

  protected override render(): React.ReactElement {
    return (
      <UseSignal signal={this._model.changed}>
        {() => (
          <button
            className="vb-Status-button"
            title={this._trans.__('Show the batches')}
            onClick={this._open}
          >
            <batchesIcon.react tag="span" width="14px" height="14px" />
            {statusText(this._model, this._trans)}
          </button>
        )}
      </UseSignal>
    );
  }
}

/** Return the number of unfinished batches and the tokens per second of the engines, as text. */
export function statusText(model: BatchesModel, trans: TranslationBundle): string {
  const { length } = model.unfinished;
  const batches =
    length === 0
      ? trans.__('Batches')
      : trans._n('%1 batch in progress', '%1 batches in progress', length, length);
  return model.tokensPerSecond > 0
    ? trans.__('%1 · %2 tokens/s', batches, rate(model.tokensPerSecond))
    : batches;
}
