import { BatchesModel, isCancellable, isPaused } from '../src/model';
import { batch, engine, view } from './samples';

function ids(model: BatchesModel): string[] {
  return model.batches.map(one => one.batch.id);
}

function snapshot(model: BatchesModel, ...names: [string, number][]): void {
  const batches = names.map(([id, at]) => view(id, at));
  model.apply({ name: 'snapshot', data: { batches, engines: [], problems: [], store_bytes: 0 } });
}

test('batches stand in the order of the server, the newest first, also those of one second', () => {
  const model = new BatchesModel();
  snapshot(model, ['d', 5], ['c', 5], ['a', 1]);
  model.apply({ name: 'batch', data: view('e', 5) });
  model.addPage({ data: [view('b', 5), view('a', 1), view('z', 0)], total: 9, has_more: true });
  expect(ids(model)).toEqual(['e', 'd', 'c', 'b', 'a', 'z']);
  expect([model.total, model.hasMore, model.cursor]).toEqual([9, true, 'z']);
});

test('a change of a batch takes its place, and a page does not overwrite what events have told since', () => {
  const model = new BatchesModel();
  snapshot(model, ['b', 2], ['a', 1]);
  model.apply({ name: 'batch', data: view('a', 1, 'completed') });
  model.addPage({ data: [view('b', 2), view('a', 1)], total: 2, has_more: false });
  expect(ids(model)).toEqual(['b', 'a']);
  expect(model.find('a')?.batch.status).toBe('completed');
  expect(model.unfinished.map(one => one.batch.id)).toEqual(['b']);
});

test('a new batch makes one more, and pages are read anew where the last batch of one was deleted', () => {
  const model = new BatchesModel();
  snapshot(model, ['b', 2]);
  expect(model.total).toBe(1);
  model.addPage({ data: [view('a', 1)], total: 900, has_more: true });
  model.apply({ name: 'batch', data: view('c', 3) });
  model.apply({ name: 'batch', data: view('c', 3, 'completed') });
  expect(model.total).toBe(901);
  model.forgetCursor();
  expect(model.cursor).toBeNull();
  model.addPage({ data: [view('c', 3), view('b', 2)], total: 900, has_more: true });
  expect(ids(model)).toEqual(['c', 'b', 'a']);
});

test('a snapshot after an interruption drops what has gone and keeps what has ended', () => {
  const model = new BatchesModel();
  snapshot(model, ['c', 3], ['b', 2]);
  model.addPage({ data: [view('a', 1, 'completed')], total: 3, has_more: false });
  snapshot(model, ['d', 4], ['c', 3]);
  expect(ids(model)).toEqual(['d', 'c', 'a']);
  expect(model.hasMore).toBe(false);
});

test('engines come, change and go, and their tokens are summed', () => {
  const model = new BatchesModel();
  const stats = {
    running: 1,
    waiting: 0,
    kv_cache_usage: 0,
    prefix_cache_hit_rate: 0,
    prompt_tokens_per_second: 0,
    generation_tokens_per_second: 20
  };
  model.apply({ name: 'engine', data: engine('1', { stats }) });
  model.apply({ name: 'engine', data: engine('2', { stats }) });
  expect(model.tokensPerSecond).toBe(40);
  model.apply({ name: 'engine', data: engine('1', { state: 'unloaded' }) });
  model.apply({ name: 'engine_gone', data: { id: '2' } });
  expect(model.engines.map(one => [one.id, one.state])).toEqual([['1', 'unloaded']]);
  expect(model.tokensPerSecond).toBe(0);
});

test('every change is told once', () => {
  const model = new BatchesModel();
  let changes = 0;
  model.changed.connect(() => (changes += 1));
  snapshot(model, ['a', 1]);
  model.select('a');
  model.connection = { kind: 'live' };
  expect(changes).toBe(3);
  expect(model.selected?.batch.id).toBe('a');
});

test('whether a batch can be cancelled follows from its status', () => {
  expect(isCancellable(batch('a'))).toBe(true);
  expect(isCancellable(batch('a', { status: 'finalizing' }))).toBe(false);
});

test('only a paused batch that has not ended can be resumed', () => {
  const paused = { ...view('a', 1), paused: true };
  expect([isPaused(view('a', 1)), isPaused(paused)]).toEqual([false, true]);
  expect(isPaused({ ...paused, batch: batch('a', { status: 'cancelled' }) })).toBe(false);
});

test('ten thousand batches are taken in page by page within a second', () => {
  const model = new BatchesModel();
  snapshot(model, ...Array.from({ length: 100 }, (_, n): [string, number] => [`n${n}`, 20000 - n]));
  const begun = performance.now();
  for (let page = 0; page < 10; page++) {
    const data = Array.from({ length: 1000 }, (_, n) =>
      view(`o${1000 * page + n}`, 10000 - 1000 * page - n, 'completed')
    );
    model.addPage({ data, total: 10100, has_more: page < 9 });
  }
  for (let change = 0; change < 100; change++) {
    model.apply({ name: 'batch', data: view('n5', 19995) });
  }
  expect(performance.now() - begun).toBeLessThan(1000);
  expect(model.batches).toHaveLength(10100);
  expect(model.batches.at(-1)?.batch.id).toBe('o9999');
});
