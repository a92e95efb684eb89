import { attachCell, openAICell, runCell } from '../src/snippets';

test('a cell names the batch and nothing else', () => {
  expect(attachCell('batch_1')).toBe('%load_ext vbatch_jupyter\n%vbatch attach batch_1');
  expect(openAICell('batch_1')).toContain('client.batches.retrieve("batch_1")');
});

test('a path is quoted as the magic reads it', () => {
  expect(runCell('a/b-1.jsonl', 'parasail')).toContain(
    '\n%vbatch run a/b-1.jsonl --target parasail'
  );
  expect(runCell("my 'own' file.jsonl", 'openai')).toContain(
    `%vbatch run 'my '"'"'own'"'"' file.jsonl' --target openai`
  );
});
