/**
 * The counts of a batch as a bar.
 */

import React from 'react';

import { shares } from './format';
import type { IBatchView } from './types';

/** Completed, failed and left, with a text for screen readers. */
export function CountsBar(props: { view: IBatchView }): React.ReactElement {
  const { batch, counts } = props.view;
  const { completed, failed } = shares(batch.request_counts);
  return (
    <div className="vb-Bar" role="img" aria-label={counts} title={counts}>
      <div className="vb-Bar-completed" style={{ width: `${completed}%` }} />
      <div className="vb-Bar-failed" style={{ width: `${failed}%` }} />
    </div>
  );
}
