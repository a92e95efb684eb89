-- The store's tables. Large things (input, output and error files, spools) are files beside the database; what stands
-- here is what must change together. Times are Unix seconds. A statement ends at a semicolon that ends a line.

-- Input, output and error files. A deleted file keeps its row: a cursor of files.list may point at it, and fsck must
-- tell a file that was deleted from one that was lost.
CREATE TABLE file (
    number INTEGER PRIMARY KEY AUTOINCREMENT, -- the order in which files were made; seconds are too coarse for it
    id TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    created_at INTEGER NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
    expires_at INTEGER,
    deleted_at INTEGER
);

-- Files that come in parts. An upload keeps its row, so that a client that has missed an answer can ask again.
CREATE TABLE upload (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    filename TEXT NOT NULL,
    purpose TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'completed', 'cancelled', 'expired')),
    file_expires_after_seconds INTEGER,
    file_id TEXT REFERENCES file (id),
    CHECK ((status = 'completed') = (file_id IS NOT NULL))
);

CREATE TABLE upload_part (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    upload_id TEXT NOT NULL REFERENCES upload (id),
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    created_at INTEGER NOT NULL,
    position INTEGER CHECK (position >= 0) -- in the file that was made of the upload
);

CREATE INDEX part_by_upload ON upload_part (upload_id);

-- An upload ends once.
CREATE TRIGGER ended_upload_is_final
BEFORE UPDATE ON upload
WHEN old.status <> 'pending'
BEGIN
    SELECT raise(ABORT, 'an upload that has ended never changes');
END;

CREATE TABLE batch (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    endpoint TEXT NOT NULL,
    -- No foreign key: a batch whose input file is not there is created, and fails validation, as OpenAI's does.
    input_file_id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (
        status IN (
            'validating', 'failed', 'in_progress', 'finalizing', 'completed', 'expired', 'cancelling', 'cancelled'
        )
    ),
    completion_window TEXT NOT NULL,
    model TEXT,
    errors TEXT CHECK (errors IS NULL OR json_valid(errors)),
    output_file_id TEXT REFERENCES file (id),
    error_file_id TEXT REFERENCES file (id),
    in_progress_at INTEGER,
    expires_at INTEGER,
    finalizing_at INTEGER,
    completed_at INTEGER,
    failed_at INTEGER,
    expired_at INTEGER,
    cancelling_at INTEGER,
    cancelled_at INTEGER,
    total INTEGER NOT NULL DEFAULT 0 CHECK (total >= 0),
    completed INTEGER NOT NULL DEFAULT 0 CHECK (completed >= 0),
    failed INTEGER NOT NULL DEFAULT 0 CHECK (failed >= 0),
    usage TEXT CHECK (usage IS NULL OR json_valid(usage)),
    metadata TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
    output_expires_after_seconds INTEGER,
    idempotency_key TEXT UNIQUE, -- one create, however often its client sends it
    profile TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    reason TEXT,
    paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    deaths INTEGER NOT NULL DEFAULT 0 CHECK (deaths >= 0),
    careful INTEGER NOT NULL DEFAULT 0 CHECK (careful IN (0, 1)),
    fresh INTEGER NOT NULL DEFAULT 0 CHECK (fresh IN (0, 1)),
    answers_key TEXT,
    frame TEXT,
    -- The batch service that runs it instead of an engine here, and its parts, each of which is one batch there.
    target TEXT CHECK (target IS NULL OR json_valid(target)),
    parts TEXT CHECK (parts IS NULL OR json_valid(parts)),
    -- Bytes of spool that the counts stand for; more than that on the disk means answers that are not counted yet.
    spool_bytes INTEGER NOT NULL DEFAULT 0 CHECK (spool_bytes >= 0),
    origin TEXT,
    retry_of TEXT,
    models TEXT CHECK (models IS NULL OR json_valid(models)),
    engine_seeds TEXT CHECK (engine_seeds IS NULL OR json_valid(engine_seeds)),
    -- No request is counted twice.
    CHECK (completed + failed <= total),
    -- Only a batch that completed may call itself so.
    CHECK (status <> 'completed' OR completed + failed = total),
    CHECK (target IS NOT NULL OR parts IS NULL),
    -- A status and its timestamp come together.
    CHECK ((status = 'completed') = (completed_at IS NOT NULL)),
    CHECK ((status = 'failed') = (failed_at IS NOT NULL)),
    CHECK ((status = 'expired') = (expired_at IS NOT NULL)),
    CHECK ((status = 'cancelled') = (cancelled_at IS NOT NULL)),
    CHECK ((status IN ('cancelling', 'cancelled')) = (cancelling_at IS NOT NULL)),
    CHECK ((status IN ('finalizing', 'completed')) = (finalizing_at IS NOT NULL)),
    CHECK (status NOT IN ('in_progress', 'finalizing', 'completed', 'expired') OR in_progress_at IS NOT NULL),
    -- Output and error files are published with the status that ends the batch, never before it.
    CHECK (
        (output_file_id IS NULL AND error_file_id IS NULL) OR status IN ('completed', 'expired', 'cancelled')
    )
);

-- Processes that hold an engine or can load one, and engines that a Jupyter server starts when they are needed; the latter
-- have a note. A row is true while its process holds a lock on the file of its id.
CREATE TABLE engine (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    kernel_id TEXT,
    pid INTEGER NOT NULL,
    name TEXT,
    models TEXT NOT NULL CHECK (json_valid(models)),
    state TEXT NOT NULL CHECK (state IN ('unloaded', 'loading', 'ready', 'not responding', 'dead')),
    socket TEXT NOT NULL,
    secret TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    note TEXT
);

-- Runners and the lifecycle look for unfinished batches several times a second.
CREATE INDEX unfinished_batch ON batch (number) WHERE status IN (
    'validating', 'in_progress', 'finalizing', 'cancelling'
);

-- Deleting a file asks which unfinished batch reads it.
CREATE INDEX batch_by_input_file ON batch (input_file_id);

-- The index of known answers asks which batches have ended since it was last read.
CREATE INDEX batch_by_output_file ON batch (output_file_id) WHERE output_file_id IS NOT NULL;

-- A sweep asks what has expired.
CREATE INDEX file_by_expiry ON file (expires_at) WHERE deleted_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX upload_by_expiry ON upload (expires_at) WHERE status = 'pending';
CREATE INDEX batch_by_expiry ON batch (
    output_expires_after_seconds + coalesce(completed_at, failed_at, expired_at, cancelled_at)
) WHERE output_expires_after_seconds IS NOT NULL;

-- A status only moves forward (contract §1.3).
CREATE TRIGGER status_moves_forward
BEFORE UPDATE OF status ON batch
WHEN new.status <> old.status AND (old.status || ' > ' || new.status) NOT IN (
    'validating > failed',
    'validating > in_progress',
    'validating > cancelling',
    'in_progress > finalizing',
    'in_progress > expired',
    'in_progress > cancelling',
    'finalizing > completed',
    'cancelling > cancelled'
)
BEGIN
    SELECT raise(ABORT, 'a status of a batch only moves forward');
END;

-- A finished batch never changes.
CREATE TRIGGER finished_batch_is_final
BEFORE UPDATE ON batch
WHEN old.status IN ('failed', 'completed', 'expired', 'cancelled')
BEGIN
    SELECT raise(ABORT, 'a finished batch never changes');
END;

-- A batch never stands still without a reason.
CREATE TRIGGER paused_has_reason
BEFORE UPDATE OF paused, reason ON batch
WHEN new.paused AND new.reason IS NULL
BEGIN
    SELECT raise(ABORT, 'a paused batch has a reason');
END;

-- The fence only rises.
CREATE TRIGGER epoch_rises
BEFORE UPDATE OF epoch ON batch
WHEN new.epoch < old.epoch
BEGIN
    SELECT raise(ABORT, 'the epoch of a batch only rises');
END;
