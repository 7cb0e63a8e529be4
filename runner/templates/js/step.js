// Writes a greeting to a file in a granted directory.
import { absent, change, fs, held } from './pawl.js';

export const description = {
  name: 'my-step',
  version: '0.1.0',
  summary: 'writes a greeting to a file',
  config: {
    $schema: 'http://json-schema.org/draft-07/schema#',
    type: 'object',
    additionalProperties: false,
    required: ['file', 'name'],
    properties: {
      file: { description: 'The path of the file, `<granted directory>/<path>`.', type: 'string' },
      name: { description: 'The name to greet.', type: 'string' },
    },
  },
  needs: [{ capability: 'dirs', access: 'rw', reason: 'holds the file' }],
  phase: 'commit',
  repeatable: true,
  probes: true,
  reverts: true,
};

export function preview(input) {
  return [change('update', input.config.file, greeting(input))];
}

export function apply(input) {
  fs.writeAtomic(input.config.file, greeting(input));
  return receipt(input);
}

export function probe(input) {
  const { file } = input.config;
  return fs.exists(file) && fs.readText(file) === greeting(input) ? held(receipt(input)) : absent();
}

export function revert(input) {
  fs.remove(input.config.file);
}

const greeting = ({ config, release }) => `Hello, ${config.name}, from ${release.label}\n`;
const receipt = ({ config }) => ({ outputs: { file: config.file } });
