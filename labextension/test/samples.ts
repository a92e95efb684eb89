import type { IBatch, IBatchView, IEngine, Status } from '../src/types';

export function batch(id: string, fields: Partial<IBatch> = {}): IBatch {
  return {
    id,
    endpoint: '/v1/chat/completions',
    status: 'in_progress',
    model: 'm',
    input_file_id: `file-${id}`,
    output_file_id: null,
    error_file_id: null,
    created_at: 100,
    in_progress_at: 100,
    completed_at: null,
    failed_at: null,
    expired_at: null,
    cancelled_at: null,
    request_counts: { total: 10, completed: 0, failed: 0 },
    errors: null,
    usage: null,
    metadata: null,
    ...fields
  };
}

export function view(id: string, created_at: number, status: Status = 'in_progress'): IBatchView {
  return {
    batch: batch(id, { created_at, status }),
    progress: '0/10 completed',
    counts: '0 completed, 0 failed, 10 left',
    retry_label: 'Retry failed',
    waiting: null,
    notes: [],
    requests_per_second: null,
    seconds_left: null,
    paused: false,
    has_unanswered: false,
    retry_of: null,
    origin: null
  };
}

export function engine(id: string, fields: Partial<IEngine> = {}): IEngine {
  return {
    id,
    name: null,
    models: ['m'],
    state: 'ready',
    kernel_id: null,
    pid: 1,
    stats: null,
    note: null,
    is_planned: false,
    ...fields
  };
}
