// Whether texts have patterns, as the ECMAScript engine at hand says: with the flag `u`, and without it where that is no
// pattern. Reads {patterns, texts} from standard input; writes a row of 0 and 1 for each pattern, or null.
const {patterns, texts} = JSON.parse(require("fs").readFileSync(0, "utf8"));
const compiled = (pattern) => {
  for (const flag of ["u", ""]) {
    try { return new RegExp(pattern, flag); } catch { continue; }
  }
  return null;
};
const row = (found) => found && texts.map((text) => (found.test(text) ? "1" : "0")).join("");
process.stdout.write(JSON.stringify(patterns.map((pattern) => row(compiled(pattern)))));
