/**
 * The engines and their figures.
 */

import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import React from 'react';

import { CommandIDs } from './commandIds';
import { count, engineName, percent, rate } from './format';
import type { IEngine, IProblem } from './types';

/** All engines. */
export function EngineList(props: {
  engines: readonly IEngine[];
  commands: CommandRegistry;
  trans: TranslationBundle;
}): React.ReactElement {
  const { engines, commands, trans } = props;
  return (
    <section className="vb-Engines" aria-label={trans.__('Engines')}>
      <h2 className="vb-Heading">{trans.__('Engines')}</h2>
      {engines.length === 0 && (
        <p className="vb-Hint">
          {trans.__('No engine is running. Start one in a notebook with %vbatch load MODEL.')}
        </p>
      )}
      <ul>
        {engines.map(engine => (
          <EngineItem key={engine.id} engine={engine} commands={commands} trans={trans} />
        ))}
      </ul>
    </section>
  );
}

/** What fails in the server or a kernel, and is tried again. */
export function Problems(props: {
  problems: readonly IProblem[];
  trans: TranslationBundle;
}): React.ReactElement | null {
  const { problems, trans } = props;
  if (problems.length === 0) {
    return null;
  }
  return (
    <div className="vb-Connection" role="alert">
      {problems.map(({ loop, text, times, kernel_id }) => (
        <p key={`${loop} ${kernel_id}`}>
          {trans.__('The %1 loop has failed %2 times, and tries again: %3', loop, times, text)}
        </p>
      ))}
    </div>
  );
}

function EngineItem(props: {
  engine: IEngine;
  commands: CommandRegistry;
  trans: TranslationBundle;
}): React.ReactElement {
  const { engine, commands, trans } = props;
  const name = engineName(engine);
  // An engine that the server would start has neither kernel nor process yet.
  const kernel =
    engine.kernel_id !== null
      ? trans.__('kernel %1', engine.kernel_id.slice(0, 8))
      : engine.pid !== null
        ? trans.__('process %1', engine.pid)
        : null;
  const isLoaded = engine.state === 'ready' || engine.state === 'not responding';
  const command = isLoaded ? CommandIDs.unload : CommandIDs.load;
  return (
    <li className="vb-Engine" data-state={engine.state}>
      <div className="vb-Line">
        <span className="vb-Name" title={engine.models.join(', ')}>
          {engine.state === 'unloaded' && !engine.is_planned ? trans.__('no model') : name}
        </span>
        <span className="vb-State">{stateName(engine, trans)}</span>
        {engine.state !== 'loading' && (
          <button
            className="vb-Button"
            aria-label={
              isLoaded
                ? trans.__('Unload %1', name)
                : trans.__('Load a model in %1', kernel ?? name)
            }
            onClick={() =>
              void commands.execute(command, {
                // A notebook's engine may have the name of one that the server starts.
                engine: engine.is_planned ? engine.name : engine.id,
                name: engine.name,
                isPlanned: engine.is_planned
              })
            }
          >
            {isLoaded ? trans.__('Unload') : trans.__('Load…')}
          </button>
        )}
      </div>
      <div className="vb-Small" title={engine.note ?? engine.kernel_id ?? undefined}>
        {[kernel, engine.note].filter(Boolean).join(' · ')}
      </div>
      {engine.stats !== null && <Figures stats={engine.stats} trans={trans} />}
    </li>
  );
}

function Figures(props: {
  stats: NonNullable<IEngine['stats']>;
  trans: TranslationBundle;
}): React.ReactElement {
  const { stats, trans } = props;
  const figures: [string, string][] = [
    [trans.__('running'), count(stats.running)],
    [trans.__('waiting'), count(stats.waiting)],
    [trans.__('KV cache usage'), percent(stats.kv_cache_usage)],
    [trans.__('prefix cache hit rate'), percent(stats.prefix_cache_hit_rate)],
    [trans.__('generation tokens/s'), rate(stats.generation_tokens_per_second)],
    [trans.__('prompt tokens/s'), rate(stats.prompt_tokens_per_second)]
  ];
  return (
    <dl className="vb-Figures">
      {figures.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

function stateName(engine: IEngine, trans: TranslationBundle): string {
  const names = {
    unloaded: trans.__('unloaded'),
    loading: trans.__('loading'),
    ready: trans.__('ready'),
    'not responding': trans.__('not responding'),
    dead: trans.__('dead')
  };
  return names[engine.state];
}
