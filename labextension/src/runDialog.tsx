/**
 * "Run as batch…": choose endpoint and target, and see what would be refused before anything runs.
 */

import type { Dialog } from '@jupyterlab/apputils';
import type { TranslationBundle } from '@jupyterlab/translation';
import { ReactWidget } from '@jupyterlab/ui-components';
import React from 'react';

import { count } from './format';
import type { ICheck, IFinding } from './types';

/** Where a batch runs: on an engine of this server or at a batch service. */
export const TARGETS = ['here', 'parasail', 'openai'] as const;
export type Target = (typeof TARGETS)[number];

/** How many findings are listed; the rest are counted. */
const LISTED = 100;

/** What was chosen. */
export interface IRunChoice {
  /** Null until the server has said which one the file is for. */
  endpoint: string | null;
  target: Target;
}

/** What the dialog is about. */
export interface IRunBodyOptions {
  filename: string;
  check: (target: string) => Promise<ICheck>;
  trans: TranslationBundle;
}

/**
 * The body of the dialog. Its node has whether the file would run as `data-would-run`.
 */
export class RunBody extends ReactWidget implements Dialog.IBodyWidget<IRunChoice> {
  constructor(private readonly _options: IRunBodyOptions) {
    super();
    this.addClass('vb-Run');
    void this._check();
  }

  getValue(): IRunChoice {
    return this._choice;
  }

  /** The result of the check; null while it runs. */
  get found(): ICheck | Error | null {
    return this._found;
  }

  protected override render(): React.ReactElement {
    const { filename, trans } = this._options;
    return (
      <>
        <p className="vb-Small">{filename}</p>
        <label>
          {trans.__('Endpoint')}
          <select
            value={this._choice.endpoint ?? ''}
            onChange={event => this._choose({ endpoint: event.target.value })}
          >
            {this._endpoints.map(endpoint => (
              <option key={endpoint}>{endpoint}</option>
            ))}
          </select>
        </label>
        <label>
          {trans.__('Target')}
          <select
            value={this._choice.target}
            onChange={event => this._choose({ target: event.target.value as Target })}
          >
            {TARGETS.map(target => (
              <option key={target} value={target}>
                {target === 'here' ? trans.__('an engine here') : target}
              </option>
            ))}
          </select>
        </label>
        {this._choice.target !== 'here' && (
          <p className="vb-Hint">
            {trans.__(
              'This inserts a cell into the active notebook, because its kernel has the API key.'
            )}
          </p>
        )}
        <Found found={this._found} trans={trans} />
      </>
    );
  }

  private _choose(choice: Partial<IRunChoice>): void {
    const isOther = choice.target !== undefined && choice.target !== this._choice.target;
    this._choice = { ...this._choice, ...choice };
    if (isOther) {
      void this._check();
    }
    this.update();
  }

  private async _check(): Promise<void> {
    const { target } = this._choice;
    this._found = null;
    this.node.dataset.wouldRun = '';
    let found: ICheck | Error;
    try {
      found = await this._options.check(target);
    } catch (error) {
      found = error instanceof Error ? error : new Error(String(error));
    }
    if (target === this._choice.target) {
      this._found = found;
      if (!(found instanceof Error)) {
        this._endpoints = found.endpoints;
        const { endpoint } = this._choice;
        const isKept = endpoint !== null && found.endpoints.includes(endpoint);
        this._choice = { target, endpoint: isKept ? endpoint : found.endpoint };
      }
      this.node.dataset.wouldRun = String(!(found instanceof Error) && found.would_run);
      this.update();
    }
  }

  private _choice: IRunChoice = { endpoint: null, target: 'here' };
  private _endpoints: string[] = [];
  private _found: ICheck | Error | null = null;
}

function Found(props: {
  found: ICheck | Error | null;
  trans: TranslationBundle;
}): React.ReactElement {
  const { found, trans } = props;
  if (found === null) {
    return (
      <p role="status" className="vb-Hint">
        {trans.__('Checking …')}
      </p>
    );
  }
  if (found instanceof Error) {
    return (
      <p role="alert" className="vb-Refused">
        {found.message}
      </p>
    );
  }
  const hasErrors = found.findings.some(finding => finding.severity === 'error');
  const left = found.left_out + Math.max(0, found.findings.length - LISTED);
  return (
    <>
      <p role="status" className={found.would_run ? 'vb-Fine' : 'vb-Refused'}>
        {!found.would_run
          ? trans.__('It would be refused.')
          : hasErrors
            ? trans.__('It would run, with errors for some requests.')
            : trans.__('It would run.')}
      </p>
      {found.findings.length > 0 && (
        <ul className="vb-Findings" tabIndex={0} aria-label={trans.__('Findings')}>
          {found.findings.slice(0, LISTED).map((finding, index) => (
            <FindingItem key={index} finding={finding} trans={trans} />
          ))}
          {left > 0 && <li>{trans.__('and %1 more', count(left))}</li>}
        </ul>
      )}
    </>
  );
}

function FindingItem(props: { finding: IFinding; trans: TranslationBundle }): React.ReactElement {
  const { finding, trans } = props;
  const names = {
    refused: trans.__('refused'),
    error: trans.__('error'),
    vllm_only: trans.__('vLLM only'),
    ignored: trans.__('ignored')
  };
  return (
    <li data-severity={finding.severity}>
      <b>{names[finding.severity]}</b>{' '}
      {finding.line === null ? trans.__('file') : trans.__('line %1', count(finding.line))}
      {finding.custom_id !== null && ` (${finding.custom_id})`}
      {`: ${finding.code}: ${finding.message}`}
    </li>
  );
}
