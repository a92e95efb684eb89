import { Lines, linesOf, PAGE_LINES } from '../src/lines';
import type { ILinePage } from '../src/types';

const TOTAL = 50_000;

function page(start: number, count: number): ILinePage {
  const data = Array.from({ length: count }, (_, index) => ({
    number: start + index,
    json: start + index,
    text: null,
    truncated: false
  }));
  return { data, total: TOTAL, has_more: true };
}

const settled = (): Promise<void> => new Promise(resolve => setTimeout(resolve, 0));

test('of fifty thousand lines only the pages that are looked at are asked for, each once', async () => {
  const asked: [number, number][] = [];
  const arrived: [number, number][] = [];
  const lines = new Lines(
    (start, limit) => {
      asked.push([start, limit]);
      return Promise.resolve(page(start, limit));
    },
    (start, count) => arrived.push([start, count])
  );
  await lines.load(0);
  expect(lines.total).toBe(TOTAL);
  for (let number = 20_001; number <= 20_030; number++) {
    expect(lines.get(number)).toBeNull();
  }
  await settled();
  expect(lines.get(20_015)?.json).toBe(20_015);
  expect(lines.get(1)?.number).toBe(1);
  expect(asked).toEqual([
    [1, PAGE_LINES],
    [20_001, PAGE_LINES]
  ]);
  expect(arrived).toEqual(asked);
});

test('the pages that were looked at first are forgotten first', async () => {
  let asked = 0;
  const lines = new Lines(
    (start, limit) => {
      asked += 1;
      return Promise.resolve(page(start, limit));
    },
    () => undefined
  );
  for (let number = 0; number < 60; number++) {
    await lines.load(number);
  }
  expect(lines.get(60 * PAGE_LINES)?.number).toBe(60 * PAGE_LINES);
  expect(asked).toBe(60);
  expect(lines.get(1)).toBeNull();
  expect(asked).toBe(61);
});

test('a page that ends early, because its lines are large, is gone on with', async () => {
  const lines = new Lines(
    (start, limit) => Promise.resolve(page(start, Math.min(limit, 150))),
    () => undefined
  );
  await lines.load(0);
  expect(lines.get(150)?.number).toBe(150);
  expect(lines.get(151)).toBeNull();
  await settled();
  expect(lines.get(151)?.number).toBe(151);
  expect(lines.get(PAGE_LINES)?.number).toBe(PAGE_LINES);
});

test('a page that could not be had is said, and asked for again a while later', async () => {
  jest.useFakeTimers();
  const errors: string[] = [];
  let isUp = false;
  const lines = new Lines(
    (start, limit) =>
      isUp ? Promise.resolve(page(start, limit)) : Promise.reject(new Error('gone')),
    () => undefined,
    error => errors.push(error.message)
  );
  await lines.load(0);
  lines.get(1);
  expect(errors).toEqual(['gone']);
  isUp = true;
  await jest.advanceTimersByTimeAsync(3001);
  lines.get(1);
  await jest.advanceTimersByTimeAsync(0);
  expect(lines.get(1)?.number).toBe(1);
  jest.useRealTimers();
});

test('lines of a text are as the server gives them, an end without a line break included', async () => {
  const source = linesOf('{"a": 1}\n\nno JSON\n2');
  expect((await source(1, 10)).data.map(line => line.json ?? line.text)).toEqual([
    { a: 1 },
    '',
    'no JSON',
    2
  ]);
  expect((await source(2, 1)).data).toHaveLength(1);
  expect((await source(2, 1)).total).toBe(4);
  expect((await linesOf('a\n')(1, 10)).total).toBe(1);
  expect((await linesOf('')(1, 10)).total).toBe(0);
});
