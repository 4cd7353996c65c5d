// Call functions of script.mjs: `node call.mjs`. Calls and results are those of ../call.py.

import { createInterface } from "node:readline";
import * as script from "./script.mjs";

for await (const line of createInterface({ input: process.stdin })) {
  const call = JSON.parse(line);
  let result;
  try {
    result = { value: await script[call.function](call.arguments) };
  } catch (error) {
    result = { error: `${error.stack}\n${error.responseBody ?? ""}` };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
