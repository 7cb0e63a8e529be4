// Connects step.js with the contract: JSON becomes objects, and a thrown error becomes a failure with its message.
import { asFailure } from './pawl.js';
import * as own from './step.js';

const text = (value) => JSON.stringify(value ?? {});
const asReceipt = (receipt) => ({ outputs: text(receipt?.outputs), notes: text(receipt?.notes) });

function call(body) {
  try {
    return body();
  } catch (error) {
    throw asFailure(error);
  }
}

export const step = {
  describe: () => JSON.stringify(own.description),
  preview: (input) => call(() => own.preview(JSON.parse(input))),
  apply: (input) => call(() => asReceipt(own.apply(JSON.parse(input)))),
  probe: (input) =>
    call(() => {
      const finding = own.probe(JSON.parse(input));
      return finding.tag === 'held' ? { tag: 'held', val: asReceipt(finding.val) } : finding;
    }),
  revert: (input, { outputs, notes }) =>
    call(() => own.revert(JSON.parse(input), { outputs: JSON.parse(outputs), notes: JSON.parse(notes) })),
};
