/**
 * The selected batch, with its details and commands.
 */

import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import React from 'react';

import { CountsBar } from './bar';
import { BATCH_COMMANDS, CommandIDs } from './commandIds';
import { count, duration, moment, rate } from './format';
import { statusName } from './statusText';
import type { IBatchError, IBatchView } from './types';

/** One batch. */
export function BatchDetails(props: {
  view: IBatchView;
  commands: CommandRegistry;
  onClose: () => void;
  trans: TranslationBundle;
}): React.ReactElement {
  const { view, commands, onClose, trans } = props;
  const { batch, requests_per_second, seconds_left } = view;
  const facts: [string, string | null | undefined][] = [
    [trans.__('status'), statusName(batch.status, trans)],
    [trans.__('waiting'), view.waiting],
    [trans.__('notes'), view.notes.length ? view.notes.join(' ') : null],
    [trans.__('time left'), seconds_left ? duration(seconds_left) : null],
    [trans.__('requests/s'), requests_per_second ? rate(requests_per_second) : null],
    [trans.__('model'), batch.model],
    [trans.__('endpoint'), batch.endpoint],
    [trans.__('origin'), view.origin],
    [trans.__('created'), moment(batch.created_at)],
    [trans.__('tokens'), batch.usage ? count(batch.usage.total_tokens) : null],
    [trans.__('retry of'), view.retry_of]
  ];
  return (
    <section className="vb-Details" aria-label={trans.__('Batch %1', batch.id)}>
      <div className="vb-Line">
        <h2 className="vb-Heading vb-Name">{batch.id}</h2>
        <button className="vb-Button" aria-label={trans.__('Close the batch')} onClick={onClose}>
          ×
        </button>
      </div>
      <CountsBar view={view} />
      <div className="vb-Small">{view.progress}</div>
      <dl className="vb-Facts">
        {facts.map(([name, value]) =>
          value ? (
            <React.Fragment key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </React.Fragment>
          ) : null
        )}
      </dl>
      <div className="vb-Actions" role="toolbar" aria-label={trans.__('Actions for the batch')}>
        {BATCH_COMMANDS.filter(command => commands.isVisible(command, { id: batch.id })).map(
          command => (
            <button
              key={command}
              className="vb-Button"
              disabled={!commands.isEnabled(command, { id: batch.id })}
              title={commands.caption(command, { id: batch.id })}
              onClick={() => void commands.execute(command, { id: batch.id })}
            >
              {commands.label(command, { id: batch.id })}
            </button>
          )
        )}
      </div>
      <ValidationErrors
        errors={batch.errors?.data ?? []}
        onLine={line => void commands.execute(CommandIDs.openInput, { id: batch.id, line })}
        trans={trans}
      />
    </section>
  );
}

function ValidationErrors(props: {
  errors: readonly IBatchError[];
  onLine: (line: number) => void;
  trans: TranslationBundle;
}): React.ReactElement | null {
  const { errors, onLine, trans } = props;
  if (errors.length === 0) {
    return null;
  }
  return (
    <ol className="vb-Errors" aria-label={trans.__('Why the input file is not valid')}>
      {errors.map((error, index) => {
        const { line } = error;
        return (
          <li key={index}>
            {line === null ? (
              trans.__('file')
            ) : (
              <button className="vb-Link" onClick={() => onLine(line)}>
                {trans.__('line %1', count(line))}
              </button>
            )}
            {`: ${error.code ?? ''}: ${error.message ?? ''}`}
          </li>
        );
      })}
    </ol>
  );
}
