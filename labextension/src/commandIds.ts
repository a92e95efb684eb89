/**
 * The names of the commands. The commands of a batch take its id; by default they use the selected batch.
 */
export const CommandIDs = {
  /** Show the panel. */
  open: 'vbatch:open',
  /** Cancel a batch. */
  cancel: 'vbatch:cancel',
  /** Continue a batch that is paused. */
  resume: 'vbatch:resume',
  /** Run the requests of a batch that have no answer in a new batch. */
  retry: 'vbatch:retry',
  /** Show a batch's input file as a table. */
  openInput: 'vbatch:open-input',
  /** Show a batch's output file as a table. */
  openOutput: 'vbatch:open-output',
  /** Show a batch's error file as a table. */
  openErrors: 'vbatch:open-errors',
  /** Copy a batch's id to the clipboard. */
  copyId: 'vbatch:copy-id',
  /** Insert a cell that attaches to a batch. */
  insertAttach: 'vbatch:insert-attach',
  /** Insert a cell that reads a batch with OpenAI's SDK. */
  insertOpenAI: 'vbatch:insert-openai',
  /** Load a model in a kernel. */
  load: 'vbatch:load',
  /** Unload the model of an engine. */
  unload: 'vbatch:unload',
  /** Run the file that is selected in the file browser as a batch. */
  runFile: 'vbatch:run-file'
} as const;

/** The commands of a batch, in the order in which they are offered. */
export const BATCH_COMMANDS = [
  CommandIDs.cancel,
  CommandIDs.resume,
  CommandIDs.retry,
  CommandIDs.openInput,
  CommandIDs.openOutput,
  CommandIDs.openErrors,
  CommandIDs.copyId,
  CommandIDs.insertAttach,
  CommandIDs.insertOpenAI
] as const;
