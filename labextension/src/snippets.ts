/**
 * Cells that are inserted into a notebook.
 */

/** Attach to a batch with the magic. */
export function attachCell(id: string): string {
  return `%load_ext vbatch_jupyter\n%vbatch attach ${id}`;
}

/** Read a batch with OpenAI's SDK: the same code reads it at Parasail or OpenAI. */
export function openAICell(id: string): string {
  return [
    '# `%vbatch env` writes BATCH_BASE_URL and BATCH_API_KEY of this Jupyter server into .env.',
    'import os',
    'from openai import OpenAI',
    '',
    'client = OpenAI(base_url=os.environ["BATCH_BASE_URL"], api_key=os.environ["BATCH_API_KEY"])',
    `batch = client.batches.retrieve("${id}")`,
    'print(batch.status, batch.request_counts)',
    'if batch.output_file_id:',
    '    print(client.files.content(batch.output_file_id).text)'
  ].join('\n');
}

/** Run a file at a batch service with the magic: the kernel has the key, the server has none. */
export function runCell(path: string, target: string): string {
  // The magic splits its line as a shell does.
  const quoted = /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", `'"'"'`)}'`;
  return `%load_ext vbatch_jupyter\n%vbatch run ${quoted} --target ${target}`;
}
