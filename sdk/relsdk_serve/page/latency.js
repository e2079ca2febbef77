// Where the milliseconds of one search went.

import { h, svg } from "./dom.js";
import { milliseconds, t } from "./i18n.js";

const KNOWN = ["queue", "encode", "count", "retrieve", "score", "facets"];

/** Return [step, milliseconds] in order; what no step explains is the server's, then the network's. */
export function stepsOf(result, timing) {
  const steps = { queue: timing.parts.queue ?? 0, ...result.steps };
  const named = Object.entries(steps).filter(([, value]) => value >= 0.05);
  const explained = named.reduce((sum, [, value]) => sum + value, 0);
  const inside = Math.max(timing.parts.total ?? result.elapsed_ms, explained);
  const rest = [
    ["server", inside - explained],
    ["network", timing.total - inside],
  ];
  return [...named, ...rest.filter(([, value]) => value >= 0.05)];
}

export function latencyBar(result, timing) {
  const steps = stepsOf(result, timing);
  const total = steps.reduce((sum, [, value]) => sum + value, 0) || 1;
  let x = 0;
  const rects = steps.map(([name, value]) => {
    const width = (value / total) * 100;
    const part = svg("rect", { class: colour(name), x, y: 0, width: Math.max(width - 0.4, 0.2), height: 4 });
    x += width;
    return part;
  });
  const items = steps.map(([name, value]) =>
    h("li", {}, dot(colour(name)), stepWord(name), " ", h("span", { class: "number" }, milliseconds(value))),
  );
  return h(
    "div",
    { class: "latency" },
    svg(
      "svg",
      { class: "time", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
      ...rects,
    ),
    h(
      "ul",
      { "aria-label": t("latency") },
      h("li", { class: "total" }, t("latency.total", { ms: milliseconds(timing.total) })),
      items,
    ),
  );
}

const dot = (kind) =>
  svg(
    "svg",
    { class: "dot", viewBox: "0 0 8 8", "aria-hidden": "true" },
    svg("rect", { class: kind, width: 8, height: 8, rx: 2 }),
  );
const colour = (name) => (KNOWN.includes(name) || name === "network" ? `s-${name}` : "s-server");
const stepWord = (name) =>
  KNOWN.includes(name) || name === "server" || name === "network" ? t(`step.${name}`) : name;
