// The helpers for steps in JavaScript: failures, findings, the log, and files in granted directories.
// Import other parts of the contract directly, such as `import { send } from 'pawl:step/http@0.1.2'`.
import * as host from 'pawl:step/log@0.1.2';
import { getDirectories } from 'wasi:filesystem/preopens@0.2.12';

// The reason why a call failed. docs/steps.md lists the kinds; the plan's `retry` applies to `transient`.
export class Failure extends Error {
  constructor(kind, message, { hint, retryable = kind === 'transient', details = {} } = {}) {
    super(message);
    Object.assign(this, { kind, hint, retryable, details });
  }
}

// Returns the failure object of the contract. An error that is not a Failure is logged with its stack.
export function asFailure(error) {
  // An error from an import of the contract is already a failure.
  if (typeof error?.payload?.kind === 'string') return error.payload;
  if (error instanceof Failure) {
    const { kind, message, hint, retryable, details } = error;
    return { kind, message, hint, retryable, details: JSON.stringify(details) };
  }
  log.error(`${error}\n${error?.stack ?? ''}`);
  return { kind: 'permanent', message: String(error), hint: 'read the stack with `runner logs`, and fix the cause', retryable: false, details: '{}' };
}

export const change = (action, subject, detail = '') => ({ action, subject, detail });
export const held = (receipt) => ({ tag: 'held', val: receipt });
export const absent = () => ({ tag: 'absent' });
export const drifted = (why) => ({ tag: 'drifted', val: why });
export const unknown = (why) => ({ tag: 'unknown', val: why });

const write = (level) => (message, fields = {}) => host.write(level, message, JSON.stringify(fields));
export const log = { error: write('error'), warn: write('warn'), info: write('info'), debug: write('debug') };

// A path is `<granted directory>/<path>`, such as `app/VERSION`. A function that writes returns when the data is on the disk.
export const fs = {
  exists(path) {
    const [dir, rest] = find(path);
    try {
      dir.statAt({ symlinkFollow: true }, rest);
      return true;
    } catch (error) {
      if (error.payload === 'no-entry') return false;
      throw fault('inspect', path, error);
    }
  },

  readText(path) {
    const [dir, rest] = find(path);
    return attempt('read', path, () => {
      const file = dir.openAt({ symlinkFollow: true }, rest, {}, { read: true });
      const decoder = new TextDecoder();
      let [content, at] = ['', 0n];
      for (;;) {
        const [bytes, end] = file.read(65536n, at);
        content += decoder.decode(bytes, { stream: !end });
        at += BigInt(bytes.length);
        if (end) return content;
      }
    });
  },

  // Readers see the old or the new content, never a part.
  writeAtomic(path, text) {
    const [dir, rest] = find(path);
    attempt('write', path, () => {
      const file = dir.openAt({}, `${rest}.new`, { create: true, truncate: true }, { write: true });
      const bytes = new TextEncoder().encode(text);
      for (let at = 0; at < bytes.length; ) at += Number(file.write(bytes.subarray(at, at + 65536), BigInt(at)));
      file.sync();
      dir.renameAt(`${rest}.new`, dir, rest);
      syncFolder(dir, rest);
    });
  },

  remove(path) {
    const [dir, rest] = find(path);
    try {
      dir.unlinkFileAt(rest);
      syncFolder(dir, rest);
    } catch (error) {
      if (error.payload !== 'no-entry') throw fault('remove', path, error);
    }
  },
};

function find(path) {
  const [name, ...names] = path.replace(/^\//, '').split('/');
  if (name === '' || names.includes('..')) {
    const hint = 'write `<granted directory>/<path>` without `..`';
    throw new Failure('invalid-config', `\`${path}\` is not a path inside a granted directory`, { hint });
  }
  const granted = getDirectories().map(([dir, at]) => [dir, at.replace(/^\//, '')]);
  const found = granted.find(([, at]) => at === name);
  if (!found) {
    const all = granted.length ? `granted: ${granted.map(([, at]) => at).join(', ')}` : 'no directory is granted';
    const hint = `add \`${name}: <folder>\` to the step's \`grants: { dirs: … }\``;
    throw new Failure('denied', `the directory \`${name}\` is not granted to this step (${all})`, { hint });
  }
  return [found[0], names.filter((part) => part !== '' && part !== '.').join('/') || '.'];
}

function syncFolder(dir, rest) {
  const folder = rest.includes('/') ? rest.slice(0, rest.lastIndexOf('/')) : '.';
  dir.openAt({ symlinkFollow: true }, folder, { directory: true }, { read: true }).sync();
}

function attempt(verb, path, body) {
  try {
    return body();
  } catch (error) {
    throw fault(verb, path, error);
  }
}

function fault(verb, path, error) {
  const known = {
    'no-entry': ['not-found', 'not found'],
    access: ['denied', 'not permitted'],
    'not-permitted': ['denied', 'not permitted'],
    'read-only': ['denied', 'not permitted'],
    'insufficient-space': ['limit', 'the disk is full'],
  };
  if (typeof error.payload !== 'string') return error;
  const [kind, why] = known[error.payload] ?? ['permanent', error.payload];
  return new Failure(kind, `cannot ${verb} \`${path}\`: ${why}`, { details: { file: path } });
}
