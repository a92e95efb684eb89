import { TextDecoder } from 'util';

import { Updates, waitSeconds, type IEventSource } from '../src/updates';
import { BatchesModel } from '../src/model';
import { RefusedError } from '../src/request';
import type { ISnapshot } from '../src/types';
import { view } from './samples';

const SNAPSHOT: ISnapshot = { batches: [view('a', 1)], engines: [], problems: [], store_bytes: 0 };
const encode = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text));

// Every browser has one, jsdom has none.
Object.assign(globalThis, { TextDecoder });

/** A server in the place of the real one, whose stream says what it is told to. */
class Server implements IEventSource {
  isUp = true;
  problem: Error = new Error('nobody answers');
  streams = true;
  asked: string[] = [];
  say: (text: string) => void = () => undefined;
  end: () => void = () => undefined;

  events(signal: AbortSignal): Promise<Pick<Response, 'body'>> {
    this.asked.push('events');
    const chunks: ({ value: Uint8Array; done: false } | { value: undefined; done: true })[] = [];
    let told: (() => void) | null = null;
    const push = (chunk: (typeof chunks)[number]): void => {
      chunks.push(chunk);
      told?.();
    };
    this.say = text => push({ value: encode(text), done: false });
    this.end = () => push({ value: undefined, done: true });
    signal.addEventListener('abort', this.end);
    if (!this.isUp) {
      return Promise.reject(this.problem);
    }
    if (this.streams) {
      this.say(`event: snapshot\ndata: ${JSON.stringify(SNAPSHOT)}\n\n`);
    }
    const read = async (): Promise<unknown> => {
      if (chunks.length === 0) {
        await new Promise<void>(resolve => (told = resolve));
      }
      return chunks.shift();
    };
    const body = { getReader: () => ({ read }) } as unknown as ReadableStream<
      Uint8Array<ArrayBuffer>
    >;
    return Promise.resolve({ body });
  }

  snapshot(): Promise<ISnapshot> {
    this.asked.push('snapshot');
    return this.isUp ? Promise.resolve(SNAPSHOT) : Promise.reject(this.problem);
  }
}

let server: Server;
let model: BatchesModel;
let updates: Updates;

beforeEach(() => {
  jest.useFakeTimers();
  see('visible');
  server = new Server();
  model = new BatchesModel();
  updates = new Updates(server, model);
});

afterEach(() => {
  updates.dispose();
  jest.restoreAllMocks();
  jest.useRealTimers();
});

const pass = (seconds: number): Promise<void> => jest.advanceTimersByTimeAsync(1000 * seconds);

function see(state: 'visible' | 'hidden'): void {
  jest.spyOn(document, 'visibilityState', 'get').mockReturnValue(state);
  document.dispatchEvent(new Event('visibilitychange'));
}

test('events are taken as they come, over one stream', async () => {
  updates.watch();
  await pass(0);
  expect(model.connection.kind).toBe('live');
  server.say('event: batch\ndata: ' + JSON.stringify(view('b', 2)));
  await pass(0);
  expect(model.batches).toHaveLength(1);
  server.say('\n\n');
  await pass(10);
  expect(model.batches.map(one => one.batch.id)).toEqual(['b', 'a']);
  expect(server.asked).toEqual(['events']);
});

test('nothing is asked for while nobody watches or the page is hidden', async () => {
  await pass(60);
  expect(server.asked).toEqual([]);
  const watching = updates.watch();
  await pass(0);
  see('hidden');
  await pass(60);
  expect(server.asked).toEqual(['events']);
  expect(model.connection.kind).toBe('still');
  see('visible');
  await pass(0);
  expect(server.asked).toEqual(['events', 'events']);
  const other = updates.watch();
  watching.dispose();
  await pass(0);
  expect(model.connection.kind).toBe('live');
  other.dispose();
  await pass(60);
  expect(server.asked).toEqual(['events', 'events']);
  expect(model.connection.kind).toBe('still');
});

test('a server that goes is asked less and less often, and its return is seen', async () => {
  updates.watch();
  await pass(0);
  server.isUp = false;
  server.end();
  await pass(0.3);
  expect(model.connection).toEqual({ kind: 'lost', reason: 'nobody answers' });
  await pass(120);
  const looks = server.asked.filter(one => one === 'snapshot').length;
  expect(looks).toBeGreaterThan(5);
  expect(looks).toBeLessThan(12);
  expect(model.batches).toHaveLength(1);
  server.isUp = true;
  await pass(31);
  expect(model.connection.kind).toBe('live');
});

test('a server that says why it cannot answer is quoted, and seen when it can', async () => {
  server.isUp = false;
  server.problem = new RefusedError('The database is damaged.', 503);
  updates.watch();
  await pass(0);
  expect(model.connection).toEqual({ kind: 'refused', reason: 'The database is damaged.' });
  server.isUp = true;
  await pass(31);
  expect(model.connection.kind).toBe('live');
});

test('whoever does not want to wait has it looked at once', async () => {
  server.isUp = false;
  updates.watch();
  await pass(100);
  server.isUp = true;
  updates.lookNow();
  await pass(0);
  expect(model.connection.kind).toBe('live');
});

test('where a proxy keeps events back, the server is looked at every few seconds', async () => {
  server.streams = false;
  updates.watch();
  await pass(8);
  expect(model.connection.kind).toBe('polling');
  expect(model.batches).toHaveLength(1);
  await pass(60);
  expect(server.asked.filter(one => one === 'snapshot').length).toBeGreaterThan(3);
});

test('a stream without a heartbeat is made anew', async () => {
  updates.watch();
  await pass(0);
  server.say(': heartbeat\n\n');
  await pass(39);
  expect(server.asked).toEqual(['events']);
  await pass(2);
  expect(server.asked).toEqual(['events', 'events']);
  expect(model.connection.kind).toBe('live');
});

test('the wait doubles, and has an end', () => {
  expect([0, 1, 2, 3, 6, 20].map(waitSeconds)).toEqual([3, 1, 2, 4, 30, 30]);
});
