/**
 * The counts of a batch as a bar.
 */

import type { TranslationBundle } from '@jupyterlab/translation';
import React from 'react';

import { count, shares } from './format';
import type { IRequestCounts } from './types';

/** Completed, failed and left, with a text for screen readers. */
export function CountsBar(props: {
  counts: IRequestCounts | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { counts, trans } = props;
  const { completed, failed } = shares(counts);
  const { total, completed: done, failed: wrong } = counts ?? { total: 0, completed: 0, failed: 0 };
  const label = trans.__(
    '%1 completed, %2 failed, %3 left',
    count(done),
    count(wrong),
    count(total - done - wrong)
  );
  return (
    <div className="vb-Bar" role="img" aria-label={label} title={label}>
      <div className="vb-Bar-completed" style={{ width: `${completed}%` }} />
      <div className="vb-Bar-failed" style={{ width: `${failed}%` }} />
    </div>
  );
}
