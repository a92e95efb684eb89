import {
  baseName,
  count,
  duration,
  engineName,
  percent,
  rate,
  shares,
  shortId
} from '../src/format';
import { scrollTo, visibleRows } from '../src/virtual';
import { engine } from './samples';

test.each([
  [0.4, '1 s'],
  [75, '1 min 15 s'],
  [7260, '2 h 1 min'],
  [3600 * 1234, '1,234 h 0 min']
])('a duration of %d seconds is written as the widgets write it: %s', (seconds, text) => {
  expect(duration(seconds)).toBe(text);
});

test('figures are written for people', () => {
  expect([count(1234567), rate(0.25), rate(1234.5), percent(0.654)]).toEqual([
    '1,234,567',
    '0.3',
    '1,235',
    '65%'
  ]);
  expect([shortId('batch_1a2b3c4d'), shortId('batch_1a'), baseName('a/b.ipynb')]).toEqual([
    'batch_1a2b…',
    'batch_1a',
    'b.ipynb'
  ]);
  expect(shares({ total: 4, completed: 2, failed: 1 })).toEqual({ completed: 50, failed: 25 });
  expect(shares({ total: 0, completed: 0, failed: 0 })).toEqual({ completed: 0, failed: 0 });
  expect(shares(null)).toEqual({ completed: 0, failed: 0 });
});

test('an engine is called by its name, else by its model, else by its id', () => {
  expect(engineName(engine('e', { name: 'n' }))).toBe('n');
  expect(engineName(engine('e'))).toBe('m');
  expect(engineName(engine('e', { models: [] }))).toBe('e');
});

test('of ten thousand rows only those are drawn that are seen, and a few beside them', () => {
  expect(visibleRows(0, 500, 50, 10000)).toEqual({ start: 0, end: 16 });
  expect(visibleRows(250000, 500, 50, 10000)).toEqual({ start: 4994, end: 5016 });
  expect(visibleRows(499500, 500, 50, 10000)).toEqual({ start: 9984, end: 10000 });
  expect(visibleRows(0, 500, 50, 3)).toEqual({ start: 0, end: 3 });
  // The list has become short while it was scrolled to its end.
  expect(visibleRows(9999, 500, 50, 3)).toEqual({ start: 3, end: 3 });
});

test('a row is scrolled to only where it is not seen whole', () => {
  expect(scrollTo(3, 0, 500, 50)).toBe(0);
  expect(scrollTo(10, 0, 500, 50)).toBe(50);
  expect(scrollTo(1, 100, 500, 50)).toBe(50);
});
