import { CELL_LENGTH, cellsOf, kindOf } from '../src/cells';
import type { ILine } from '../src/types';

function line(json: unknown): ILine {
  return { number: 1, json, text: null, truncated: false };
}

function ended(body: unknown): ILine {
  return line({ custom_id: 'a', response: { status_code: 200, body }, error: null });
}

test.each([
  [{ messages: [{ content: 'no' }, { content: 'Say 1.' }], model: 'm' }, 'Say 1.'],
  [
    {
      messages: [{ content: [{ type: 'text', text: 'Look' }, { type: 'image_url' }] }],
      model: 'm'
    },
    'Look'
  ],
  [{ prompt: 'Once', model: 'm' }, 'Once'],
  [{ input: ['a', 'b'], model: 'm' }, '["a","b"]'],
  [{ messages: [], model: 'm' }, '']
])('the prompt of %j is %j', (body, prompt) => {
  const cells = cellsOf(line({ custom_id: 'a', url: '/v1/x', body }), 'input');
  expect(cells.slice(0, 3)).toEqual(['a', 'm', prompt]);
});

test.each([
  [{ choices: [{ message: { content: 'Hello' } }], usage: { total_tokens: 7 } }, 'Hello', '7'],
  [{ choices: [{ text: 'upon a time' }] }, 'upon a time', ''],
  [{ choices: [{ message: { content: null, tool_calls: [{ id: 't' }] } }] }, '[{"id":"t"}]', ''],
  [{ data: [{ embedding: [0.5, 1, 2, 3] }] }, '[0.5, 1, 2, …] (4)', ''],
  [{ output: [{ content: [{ text: 'Hi' }] }] }, 'Hi', ''],
  [{ error: { message: 'too long' } }, 'too long', ''],
  [null, '', '']
])('the response in %j is %j', (body, response, tokens) => {
  expect(cellsOf(ended(body), 'output').slice(0, 4)).toEqual(['a', '200', response, tokens]);
});

test('an error says its code and message, whether the engine or the batch has made it', () => {
  const own = line({
    custom_id: 'a',
    response: null,
    error: { code: 'batch_cancelled', message: 'was cancelled' }
  });
  expect(cellsOf(own, 'error').slice(0, 4)).toEqual(['a', '', 'batch_cancelled', 'was cancelled']);
  const body = { error: { code: 'server_error', message: 'too long' } };
  const engines = line({ custom_id: 'b', response: { status_code: 400, body }, error: null });
  expect(cellsOf(engines, 'error').slice(0, 4)).toEqual(['b', '400', 'server_error', 'too long']);
});

test('what is no JSON, no object or too long is shown all the same', () => {
  const text: ILine = { number: 1, json: null, text: '<img src=x>', truncated: false };
  expect(cellsOf(text, 'input')).toEqual(['', '', '', '<img src=x>']);
  expect(cellsOf({ ...text, truncated: true }, 'output').at(-1)).toBe('<img src=x> …');
  for (const json of [1, 'a', [], null]) {
    expect(cellsOf(line(json), 'error').at(-1)).toBe(JSON.stringify(json));
  }
  expect(cellsOf(line('x'.repeat(5000)), 'input', CELL_LENGTH).at(-1)).toHaveLength(
    CELL_LENGTH + 1
  );
  expect(cellsOf(line('x'.repeat(5000)), 'input').at(-1)).toHaveLength(5002);
});

test('what a file is, is guessed by its first line', () => {
  expect(kindOf(line({ custom_id: 'a', body: {} }))).toBe('input');
  expect(kindOf(ended({}))).toBe('output');
  expect(kindOf(line({ error: { code: 'batch_expired' } }))).toBe('error');
});
