import { EventParser } from '../src/events';

test('events are the same wherever the pieces of the stream end', () => {
  const text =
    ': heartbeat\n\nevent: engine_gone\ndata: {"id":"engine_0"}\n\nevent: other\ndata: {}\n\n' +
    'event: engine_gone\ndata: {"id":"é\\n"}\n\n';
  const expected = [
    { name: 'engine_gone', data: { id: 'engine_0' } },
    { name: 'engine_gone', data: { id: 'é\n' } }
  ];
  for (let size = 1; size <= text.length; size++) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < text.length; at += size) {
      events.push(...parser.push(text.slice(at, at + size)));
    }
    expect(events).toEqual(expected);
  }
});
