/**
 * The batches that have not ended, in JupyterLab's list of running kernels.
 */

import type { IRunningSessions } from '@jupyterlab/running';
import type { TranslationBundle } from '@jupyterlab/translation';
import { stopIcon } from '@jupyterlab/ui-components';
import { Signal } from '@lumino/signaling';

import { orNotify } from './actions';
import { shortId } from './format';
import { batchesIcon } from './icon';
import type { BatchesModel } from './model';
import { isCancellable } from './model';
import type { VBatchClient } from './request';
import { statusName } from './statusText';
import type { IBatchView } from './types';

/** Return the manager of batches for JupyterLab's list of running kernels. */
export function runningBatches(
  model: BatchesModel,
  client: VBatchClient,
  open: (id: string) => void,
  look: () => void,
  trans: TranslationBundle
): IRunningSessions.IManager {
  const changed = new Signal<BatchesModel, void>(model);
  // The list is drawn again at each change, so report only changes to what it shows.
  let shown = '';
  model.changed.connect(() => {
    const now = JSON.stringify(model.unfinished.map(view => itemText(view, trans)));
    if (now !== shown) {
      shown = now;
      changed.emit();
    }
  });
  const cancel = (view: IBatchView): void => {
    if (isCancellable(view.batch)) {
      void orNotify(() => client.cancel(view.batch.id));
    }
  };
  return {
    name: trans.__('Batches'),
    running: () =>
      model.unfinished.map(view => ({
        icon: () => batchesIcon,
        label: () => itemText(view, trans),
        labelTitle: () => view.batch.id,
        open: () => open(view.batch.id),
        shutdown: () => cancel(view)
      })),
    refreshRunning: look,
    runningChanged: changed,
    shutdownAll: () => model.unfinished.forEach(cancel),
    shutdownLabel: trans.__('Cancel'),
    shutdownAllLabel: trans.__('Cancel all'),
    shutdownAllConfirmationText: trans.__('Cancel all batches? Finished answers are kept.'),
    shutdownItemIcon: stopIcon
  };
}

function itemText(view: IBatchView, trans: TranslationBundle): string {
  const { batch } = view;
  const parts = [shortId(batch.id), statusName(batch.status, trans)];
  return [...parts, view.progress].filter(Boolean).join(' · ');
}
