/**
 * What the server sends: OpenAI's objects, and what the panel shows with them.
 */

/** OpenAI's statuses of a batch. */
export type Status =
  | 'validating'
  | 'failed'
  | 'in_progress'
  | 'finalizing'
  | 'completed'
  | 'expired'
  | 'cancelling'
  | 'cancelled';

/** How many requests a batch has, and how many have completed and failed. */
export interface IRequestCounts {
  total: number;
  completed: number;
  failed: number;
}

/** One reason why an input file is not valid. */
export interface IBatchError {
  code: string | null;
  message: string | null;
  param: string | null;
  line: number | null;
}

/** The fields of OpenAI's batch that the panel uses. */
export interface IBatch {
  id: string;
  endpoint: string;
  status: Status;
  model?: string | null;
  input_file_id: string;
  output_file_id: string | null;
  error_file_id: string | null;
  created_at: number;
  in_progress_at: number | null;
  completed_at: number | null;
  failed_at: number | null;
  expired_at: number | null;
  cancelled_at: number | null;
  request_counts: IRequestCounts | null;
  errors: { data: IBatchError[] | null } | null;
  usage?: { input_tokens: number; output_tokens: number; total_tokens: number } | null;
  metadata: Record<string, string> | null;
}

/** A batch as the server shows it. */
export interface IBatchView {
  batch: IBatch;
  /** How many of its requests have completed, failed and not run, in words. */
  progress: string;
  /** The same for the bar. */
  counts: string;
  /** What the button says that runs the requests without an answer. */
  retry_label: string;
  /** Why it is not advancing, in a sentence. */
  waiting: string | null;
  /** What its requests ask in vain, one sentence each. */
  notes: string[];
  /** How fast it is and how long it will still take, where the server knows. */
  requests_per_second: number | null;
  seconds_left: number | null;
  /** Whether it waits until it is resumed. */
  paused: boolean;
  /** Whether a retry would run a request again. */
  has_unanswered: boolean;
  /** The batch whose unanswered requests it runs again. */
  retry_of: string | null;
  /** The notebook that made it. */
  origin: string | null;
}

/** One moment of an engine, in vLLM's terms. */
export interface IEngineStats {
  running: number;
  waiting: number;
  kv_cache_usage: number;
  prefix_cache_hit_rate: number;
  prompt_tokens_per_second: number;
  generation_tokens_per_second: number;
}

/** An engine of a kernel, or one that the server would start. */
export interface IEngine {
  id: string;
  name: string | null;
  models: string[];
  state: 'unloaded' | 'loading' | 'ready' | 'not responding' | 'dead';
  kernel_id: string | null;
  pid: number | null;
  stats: IEngineStats | null;
  note: string | null;
  /** Whether the server starts it itself, so that it knows the model. */
  is_planned: boolean;
}

/** Why a loop of the server or of a kernel fails; it tries again. */
export interface IProblem {
  loop: string;
  text: string;
  /** Unix seconds. */
  since: number;
  /** How many times in a row. */
  times: number;
  kernel_id: string | null;
}

/** Everything the panel shows at one moment. */
export interface ISnapshot {
  batches: IBatchView[];
  engines: IEngine[];
  problems: IProblem[];
  /** The size of the store's files. */
  store_bytes: number;
}

/** The server's events: first everything, then each change. */
export type ServerEvent =
  | { name: 'snapshot'; data: ISnapshot }
  | { name: 'batch'; data: IBatchView }
  | { name: 'engine'; data: IEngine }
  | { name: 'engine_gone'; data: { id: string } }
  | { name: 'problems'; data: { problems: IProblem[] } };

/** A page of all batches. */
export interface IBatchPage {
  data: IBatchView[];
  total: number;
  has_more: boolean;
}

/** A line of a file: JSON, or text if it is not valid JSON. */
export interface ILine {
  number: number;
  json: unknown;
  text: string | null;
  truncated: boolean;
}

/** A page of a file's lines. */
export interface ILinePage {
  data: ILine[];
  total: number;
  has_more: boolean;
}

/** One thing in a file that a batch service would refuse or ignore. */
export interface IFinding {
  severity: 'refused' | 'error' | 'vllm_only' | 'ignored';
  code: string;
  message: string;
  param: string | null;
  line: number | null;
  custom_id: string | null;
}

/** The result of checking a file for a batch service. */
export interface ICheck {
  target: string;
  endpoint: string;
  endpoints: string[];
  would_run: boolean;
  findings: IFinding[];
  left_out: number;
  summary: string;
}

/** An uploaded file. */
export interface IFile {
  id: string;
  bytes: number;
  filename: string;
}
