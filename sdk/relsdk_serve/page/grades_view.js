// The dialog of grades: agreement with the models and their reliability, the graded pairs, the download.

import { byId, choice, h, languageOf, put } from "./dom.js";
import { agreement } from "./grading.js";
import { fixed, numeral, percent, t } from "./i18n.js";
import { levelWord } from "./level.js";
import { nameOf } from "./page.js";
import { reliability } from "./reliability_view.js";
import { heads, scroller } from "./tables.js";

// What relsdk calibrate needs at least.
const PAIRS = 50;
const QUERIES = 5;

let configuration = null; // which one was last looked at

export function startGrades(grades) {
  byId("download").addEventListener("click", () => download(grades.lines()));
  const clear = byId("clear");
  clear.addEventListener("click", () => {
    if (!clear.dataset.sure) {
      clear.dataset.sure = "yes";
      clear.textContent = t("grades.clear.sure", { n: grades.size });
      return;
    }
    grades.clear();
    showGrades(grades);
  });
}

/** Show the grades there are. */
export function showGrades(grades) {
  const entries = [...grades.entries];
  const clear = byId("clear");
  delete clear.dataset.sure;
  clear.textContent = t("grades.clear");
  clear.hidden = !entries.length;
  byId("download").disabled = !entries.length;
  if (!entries.length) return put(byId("grades-body"), h("p", { class: "empty" }, t("grades.none")));
  const graded = entries.map(([, entry]) => entry);
  const rows = agreement(graded);
  return put(
    byId("grades-body"),
    h(
      "p",
      { class: "help" },
      t("grades.about", { n: entries.length }),
      enough(entries) ? null : [" ", t("grades.few", { pairs: PAIRS, queries: QUERIES })],
    ),
    rows.length
      ? [h("h3", {}, t("grades.agreement")), agreementTable(rows), ...figuresOf(rows, graded)]
      : null,
    h("h3", {}, t("grades.list")),
    list(entries, grades),
  );
}

const enough = (entries) =>
  entries.length >= PAIRS && new Set(entries.map(([, entry]) => entry.query)).size >= QUERIES;

function agreementTable(rows) {
  const body = rows.map((row) => {
    const bias = row.bias / row.pairs;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, nameOf(row.configuration)),
      h("td", { class: "number" }, numeral(row.pairs, 0)),
      h("td", { class: "number" }, percent(row.exact / row.pairs)),
      h("td", { class: "number" }, percent(row.near / row.pairs)),
      h("td", { class: "number" }, (bias > 0 ? "+" : "") + fixed(bias, 2)),
    );
  });
  const names = ["grades.configuration", "grades.pairs", "grades.exact", "grades.near", "grades.bias"].map(
    (key) => t(key),
  );
  return scroller(t("grades.agreement"), h("table", {}, heads(...names), h("tbody", {}, body)));
}

/** More of one configuration: of that with most pairs, or of that which is chosen. */
function figuresOf(rows, graded) {
  const known = rows.map((row) => row.configuration);
  const figures = h("div", { class: "figures" });
  const show = (chosen) => {
    configuration = chosen;
    put(figures, matrix(rows[known.indexOf(chosen)]), reliability(graded, chosen));
  };
  show(known.includes(configuration) ? configuration : known[0]);
  const id = "grades-configuration";
  const label = t("grades.configuration");
  const choices = known.map((one) => [one, nameOf(one)]);
  return [
    known.length > 1
      ? h(
          "div",
          { class: "field fit" },
          h("label", { for: id }, label),
          choice(id, label, choices, configuration, show),
        )
      : null,
    figures,
  ];
}

function matrix(row) {
  const levels = [0, 1, 2, 3];
  const most = Math.max(1, ...row.counts.flat());
  const body = levels.map((mine) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, `${mine} ${levelWord(mine)}`),
      levels.map((theirs) => {
        const count = row.counts[mine][theirs];
        const shade = count ? Math.ceil((count / most) * 3) : 0;
        return h(
          "td",
          { class: `number shade-${shade}${mine === theirs ? " agrees" : ""}` },
          numeral(count, 0),
        );
      }),
    ),
  );
  const title = t("grades.matrix", { configuration: nameOf(row.configuration) });
  return scroller(
    title,
    h(
      "table",
      { class: "matrix" },
      h("caption", {}, title),
      heads(t("grades.you"), ...levels.map(String)),
      h("tbody", {}, body),
    ),
  );
}

function list(entries, grades) {
  return h(
    "ul",
    { class: "graded-list" },
    [...entries].reverse().map(([key, entry]) => {
      const title = entry.title.trim() || entry.text;
      return h(
        "li",
        {},
        h("span", { class: `chip l${entry.label}` }, h("b", {}, `${entry.label} ${levelWord(entry.label)}`)),
        h(
          "span",
          { class: "pair" },
          h("span", { class: "query", lang: languageOf(entry.query) }, entry.query),
          h("span", { lang: languageOf(title) }, title),
        ),
        h(
          "button",
          {
            type: "button",
            class: "quiet square",
            "aria-label": t("grades.remove", { title }),
            onclick: () => {
              grades.remove(key);
              showGrades(grades);
              byId("download").focus();
            },
          },
          "×",
        ),
      );
    }),
  );
}

function download(lines) {
  const address = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
  const now = new Date().toISOString().replace(/[-:]/g, "").slice(0, 13);
  h("a", { href: address, download: `relsdk-grades-${now}.jsonl` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
