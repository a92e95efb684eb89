import React, { act } from 'react';
import { createRoot } from 'react-dom/client';
import type { TranslationBundle } from '@jupyterlab/translation';
import { CommandRegistry } from '@lumino/commands';

import { CommandIDs } from '../src/commandIds';
import { BatchDetails } from '../src/details';
import { EngineList, Problems } from '../src/engines';
import { BatchList } from '../src/list';
import { BatchesModel } from '../src/model';
import type { IBatchView } from '../src/types';
import { batch, engine, view } from './samples';

const HOSTILE = '<img src=x onerror=alert(1)>';
// Text is not translated, and its places are filled; as in JupyterLab, two % become one.
const trans = {
  __: (text: string, ...places: unknown[]) =>
    text
      .replace(/%%/g, '%% ')
      .replace(/%(\d+)/g, (_, place) => String(places[Number(place) - 1]))
      .replace(/%% /g, '%')
} as unknown as TranslationBundle;

Object.assign(globalThis, {
  IS_REACT_ACT_ENVIRONMENT: true,
  ResizeObserver: class {
    observe = (): void => undefined;
    disconnect = (): void => undefined;
  }
});

function draw(element: React.ReactElement): HTMLElement {
  const node = document.createElement('div');
  act(() => createRoot(node).render(element));
  return node;
}

function listOf(model: BatchesModel, loadMore: () => void = () => undefined): HTMLElement {
  return draw(
    <BatchList model={model} commands={new CommandRegistry()} trans={trans} loadMore={loadMore} />
  );
}

test('of ten thousand batches only those are drawn that are seen', () => {
  const model = new BatchesModel();
  const batches = Array.from({ length: 10_000 }, (_, n) => view(`batch_${n}`, 20_000 - n));
  model.apply({ name: 'snapshot', data: { batches, engines: [], problems: [], store_bytes: 0 } });
  const options = listOf(model).querySelectorAll('[role=option]');
  expect(options.length).toBeGreaterThan(5);
  expect(options.length).toBeLessThan(40);
  expect(options[1]?.getAttribute('aria-posinset')).toBe('2');
  expect(options[1]?.getAttribute('aria-setsize')).toBe('10000');
});

test('older batches are asked for when the end is near, and not when there are none', () => {
  let asked = 0;
  const model = new BatchesModel();
  listOf(model, () => (asked += 1));
  expect(asked).toBe(0);
  model.apply({
    name: 'snapshot',
    data: { batches: [view('a', 1)], engines: [], problems: [], store_bytes: 0 }
  });
  listOf(model, () => (asked += 1));
  expect(asked).toBe(1);
  model.addPage({ data: [], total: 1, has_more: false });
  listOf(model, () => (asked += 1));
  expect(asked).toBe(1);
});

test('why a batch waits, its rate and the time left are shown as the server says them', () => {
  const model = new BatchesModel();
  const waits = { ...view('a', 2), waiting: "No engine holds the model 'm'.", notes: ['A.'] };
  const runs = { ...view('b', 1), requests_per_second: 12.5, seconds_left: 75 };
  model.apply({
    name: 'snapshot',
    data: { batches: [waits, runs], engines: [], problems: [], store_bytes: 0 }
  });
  const texts = [...listOf(model).querySelectorAll('[role=option]')].map(row => row.textContent);
  expect(texts[0]).toContain("No engine holds the model 'm'.");
  expect(texts[0]).not.toContain('left');
  expect(texts[1]).toContain('1 min 15 s left');
  const details = [waits, runs].map(
    one =>
      draw(
        <BatchDetails
          view={one}
          commands={new CommandRegistry()}
          onClose={() => undefined}
          trans={trans}
        />
      ).querySelector('dl')?.textContent
  );
  expect(details[0]).toContain("waitingNo engine holds the model 'm'.");
  expect(details[0]).toContain('notesA.');
  expect(details[1]).not.toContain('notes');
  expect(details[1]).toContain('time left1 min 15 srequests/s13');
});

test('failed requests are named with the status, and a batch with any is not shown as fine', () => {
  const model = new BatchesModel();
  const counts = { total: 20, completed: 0, failed: 20 };
  const wrong: IBatchView = {
    ...view('a', 2, 'completed'),
    batch: batch('a', { status: 'completed', request_counts: counts }),
    progress: '0/20 completed, 20 failed',
    counts: '0 completed, 20 failed'
  };
  model.apply({
    name: 'snapshot',
    data: { batches: [wrong], engines: [], problems: [], store_bytes: 0 }
  });
  const row = listOf(model).querySelector('[role=option]');
  expect(row?.getAttribute('data-failed')).toBe('all');
  expect(row?.textContent).toContain('0/20 completed, 20 failed');
  expect(row?.querySelector('[role=img]')?.getAttribute('aria-label')).toBe(
    '0 completed, 20 failed'
  );
});

test('a panel without batches names the magic of a cell with both of its signs', () => {
  const model = new BatchesModel();
  model.apply({
    name: 'snapshot',
    data: { batches: [], engines: [], problems: [], store_bytes: 0 }
  });
  expect(listOf(model).textContent).toContain('Make one from a DataFrame with %%vbatch, or');
});

test('the size of the store is shown with the batches', () => {
  const model = new BatchesModel();
  model.apply({
    name: 'snapshot',
    data: { batches: [], engines: [], problems: [], store_bytes: 1_610_612_736 }
  });
  expect(listOf(model).textContent).toContain('1.5 GiB');
});

test('the engine of a notebook is named by its id, and one that the server starts by its name', () => {
  const asked: unknown[] = [];
  const commands = new CommandRegistry();
  commands.addCommand(CommandIDs.load, { execute: args => asked.push(args) });
  const engines = [
    engine('1', { name: 'demo', models: [], state: 'unloaded' }),
    engine('planned-demo', { name: 'demo', state: 'unloaded', is_planned: true })
  ];
  const node = draw(<EngineList engines={engines} commands={commands} trans={trans} />);
  node.querySelectorAll('button').forEach(button => act(() => button.click()));
  expect(asked).toEqual([
    { engine: '1', name: 'demo', isPlanned: false },
    { engine: 'demo', name: 'demo', isPlanned: true }
  ]);
  expect(node.textContent).toContain('no model');
});

test('names of models, notebooks and requests are text', () => {
  const model = new BatchesModel();
  const hostile = { ...view('a', 1), origin: HOSTILE, batch: batch('a', { model: HOSTILE }) };
  model.apply({
    name: 'snapshot',
    data: { batches: [hostile], engines: [], problems: [], store_bytes: 0 }
  });
  const node = listOf(model);
  expect(node.querySelectorAll('img')).toHaveLength(0);
  expect(node.textContent).toContain(HOSTILE);
});

test('the errors of a batch that did not validate are listed with their lines', () => {
  const errors = {
    data: [
      { code: 'invalid_json_line', message: HOSTILE, param: null, line: 1234 },
      { code: 'empty_file', message: 'The file is empty.', param: null, line: null }
    ]
  };
  const failed = {
    ...view('a', 1),
    batch: batch('a', { status: 'failed', errors, request_counts: null })
  };
  const node = draw(
    <BatchDetails
      view={failed}
      commands={new CommandRegistry()}
      onClose={() => undefined}
      trans={trans}
    />
  );
  const items = [...node.querySelectorAll('.vb-Errors li')].map(item => item.textContent);
  expect(items).toEqual([
    `line 1,234: invalid_json_line: ${HOSTILE}`,
    'file: empty_file: The file is empty.'
  ]);
  expect(node.querySelectorAll('img')).toHaveLength(0);
});

test('why a loop fails is shown as text while it does', () => {
  const model = new BatchesModel();
  const problem = { loop: 'tending', text: HOSTILE, since: 1, times: 3, kernel_id: null };
  model.apply({ name: 'problems', data: { problems: [problem] } });
  const node = draw(<Problems problems={model.problems} trans={trans} />);
  expect(node.textContent).toBe(`The tending loop has failed 3 times, and tries again: ${HOSTILE}`);
  model.apply({ name: 'problems', data: { problems: [] } });
  expect(draw(<Problems problems={model.problems} trans={trans} />).textContent).toBe('');
});
