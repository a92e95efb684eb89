/**
 * The list of batches; only the visible rows are drawn.
 */

import type { TranslationBundle } from '@jupyterlab/translation';
import type { CommandRegistry } from '@lumino/commands';
import React from 'react';

import { CountsBar } from './bar';
import { CommandIDs } from './commandIds';
import { baseName, count, duration, failedShare, shortId, size } from './format';
import type { BatchesModel } from './model';
import { statusName } from './statusText';
import type { IBatchView } from './types';
import { scrollTo, visibleRows } from './virtual';

/** The same as in the style sheet. */
const ROW_HEIGHT = 62;
/** Load older batches when only this many rows are left below. */
const AHEAD = 200;

interface IListProps {
  model: BatchesModel;
  commands: CommandRegistry;
  trans: TranslationBundle;
  loadMore: () => void;
}

/** All batches. */
export function BatchList(props: IListProps): React.ReactElement {
  const { model, commands, trans, loadMore } = props;
  const box = React.useRef<HTMLDivElement>(null);
  const [scroll, setScroll] = React.useState({ top: 0, height: 600 });
  const { batches } = model;
  const shown = visibleRows(scroll.top, scroll.height, ROW_HEIGHT, batches.length);
  const selected = model.selected?.batch.id ?? null;

  const measure = React.useCallback(() => {
    if (box.current !== null) {
      setScroll({ top: box.current.scrollTop, height: box.current.clientHeight });
    }
  }, []);
  React.useEffect(() => {
    const observer = new ResizeObserver(measure);
    if (box.current !== null) {
      observer.observe(box.current);
    }
    return () => observer.disconnect();
  }, [measure]);
  React.useEffect(() => {
    if (model.isKnown && model.hasMore && shown.end + AHEAD > batches.length) {
      loadMore();
    }
  });

  const choose = (row: number): void => {
    const view = batches[Math.max(0, Math.min(row, batches.length - 1))];
    if (view !== undefined && box.current !== null) {
      model.select(view.batch.id);
      const at = batches.indexOf(view);
      box.current.scrollTop = scrollTo(
        at,
        box.current.scrollTop,
        box.current.clientHeight,
        ROW_HEIGHT
      );
    }
  };
  const onKeyDown = (event: React.KeyboardEvent): void => {
    const at = batches.findIndex(view => view.batch.id === selected);
    const page = Math.max(1, Math.floor(scroll.height / ROW_HEIGHT) - 1);
    const rows: Partial<Record<string, number>> = {
      ArrowDown: at + 1,
      ArrowUp: at - 1,
      PageDown: at + page,
      PageUp: at - page,
      Home: 0,
      End: batches.length - 1
    };
    const row = rows[event.key];
    if (row !== undefined) {
      event.preventDefault();
      choose(row);
    } else if (event.key === 'Enter' && commands.isEnabled(CommandIDs.openOutput)) {
      event.preventDefault();
      void commands.execute(CommandIDs.openOutput);
    }
  };

  return (
    <section className="vb-Batches" aria-label={trans.__('Batches')}>
      <h2 className="vb-Heading">
        {trans.__('Batches')}{' '}
        <span className="vb-Small">{model.isKnown && count(model.total)}</span>{' '}
        {model.storeBytes > 0 && (
          <span
            className="vb-Small"
            title={trans.__(
              "The size of the store's files. To remove old ones: %1",
              '%vbatch clean'
            )}
          >
            {size(model.storeBytes)}
          </span>
        )}
      </h2>
      {model.isKnown && batches.length === 0 && (
        <p className="vb-Hint">
          {trans.__(
            'There are no batches yet. Make one from a DataFrame with %1, or from a .jsonl file with "Run as batch…".',
            '%%vbatch'
          )}
        </p>
      )}
      <div
        className="vb-Batches-box"
        ref={box}
        role="listbox"
        tabIndex={0}
        aria-label={trans.__('Batches, newest first')}
        aria-activedescendant={selected === null ? undefined : `vb-${selected}`}
        onScroll={measure}
        onKeyDown={onKeyDown}
      >
        <div
          style={{ height: batches.length * ROW_HEIGHT, position: 'relative' }}
          role="presentation"
        >
          {batches.slice(shown.start, shown.end).map((view, index) => (
            <BatchRow
              key={view.batch.id}
              view={view}
              row={shown.start + index}
              rows={model.total}
              isSelected={view.batch.id === selected}
              onChoose={() => model.select(view.batch.id)}
              trans={trans}
            />
          ))}
        </div>
      </div>
    </section>
  );
}

function BatchRow(props: {
  view: IBatchView;
  row: number;
  rows: number;
  isSelected: boolean;
  onChoose: () => void;
  trans: TranslationBundle;
}): React.ReactElement {
  const { view, row, rows, isSelected, onChoose, trans } = props;
  const { batch, progress, origin, waiting, seconds_left } = view;
  return (
    <div
      id={`vb-${batch.id}`}
      className="vb-Batch"
      role="option"
      aria-selected={isSelected}
      aria-setsize={rows}
      aria-posinset={row + 1}
      data-status={batch.status}
      data-failed={failedShare(batch.request_counts)}
      data-batch={batch.id}
      style={{ top: row * ROW_HEIGHT, height: ROW_HEIGHT }}
      onClick={onChoose}
    >
      <div className="vb-Line">
        <span className="vb-Name" title={batch.id}>
          {shortId(batch.id)}
        </span>
        <span className="vb-State">{statusName(batch.status, trans)}</span>
      </div>
      <CountsBar view={view} />
      <div className="vb-Line">
        <div
          className="vb-Small vb-Rest"
          title={[progress, waiting ?? origin].filter(Boolean).join(' · ')}
        >
          {[
            progress,
            ...(waiting === null
              ? [batch.model, origin === null ? null : baseName(origin)]
              : [waiting])
          ]
            .filter(Boolean)
            .join(' · ')}
        </div>
        <span className="vb-Left">
          {seconds_left ? trans.__('%1 left', duration(seconds_left)) : null}
        </span>
      </div>
    </div>
  );
}
