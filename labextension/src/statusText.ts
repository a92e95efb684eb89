/**
 * OpenAI's statuses, in the user's words.
 */

import type { TranslationBundle } from '@jupyterlab/translation';

import type { Status } from './types';

/** Name a status. */
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
