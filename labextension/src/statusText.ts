/**
 * OpenAI's statuses in the user's language.
 */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { Status } from './types';

/** Return the name of a status. */
export function statusName(status: Status, trans: TranslationBundle): string {
  const names: Record<Status, string> = {
    validating: trans.__('validating'),
    failed: trans.__('failed'),
    in_progress: trans.__('in progress'),
    finalizing: trans.__('finalizing'),
    completed: trans.__('completed'),
    expired: trans.__('expired'),
    cancelling: trans.__('cancelling'),
    cancelled: trans.__('cancelled')
  };
  return names[status];
}
