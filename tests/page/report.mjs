// Runs named checks one after another and prints "ok <what>" or "not ok <what>", as the shell tests do.
const tests = [];

export function test(name, run) {
  tests.push({ name, run });
}

// Runs everything that was named; the exit status is 1 if any failed.
export async function finish() {
  let failed = 0;
  for (const { name, run } of tests.splice(0)) {
    try {
      await run();
      console.log(`ok ${name}`);
    } catch (error) {
      failed++;
      console.log(`not ok ${name}\n${String(error.stack ?? error).replace(/^/gm, "    ")}`);
    }
  }
  if (failed > 0) process.exitCode = 1;
}
