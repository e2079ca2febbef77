// The hit that has the focus: one is in the order of Tab, with what is inside it; keys go from hit to hit.

const all = (side) => [...document.querySelectorAll(`.hit[data-side="${side}"]`)];
let place = { side: "A", at: 0, document: null };

export const current = () => document.activeElement?.closest?.(".hit") ?? null;

/** Make one hit, and what is inside it, the one that Tab reaches. */
export function mark(hit) {
  for (const one of document.querySelectorAll(".hit")) {
    const is = one === hit || (hit === null && one === first());
    one.tabIndex = is ? 0 : -1;
    for (const control of one.querySelectorAll("button")) control.tabIndex = is ? 0 : -1;
  }
  if (!hit) return;
  place = { side: hit.dataset.side, at: Number(hit.dataset.place), document: hit.dataset.document };
  pair(hit.dataset.document);
}

/** Show the same document on both sides, and its line. */
function pair(document_) {
  for (const one of document.querySelectorAll(".hit, .line")) {
    one.classList.toggle("same-document", one.dataset.document === document_);
  }
}

export function unpair() {
  for (const one of document.querySelectorAll(".same-document")) one.classList.remove("same-document");
}

const visible = (hit) => hit.getClientRects().length > 0;
const first = () => [...document.querySelectorAll(".hit")].find(visible) ?? null;

export function focusHit(hit) {
  if (!hit) return;
  hit.focus({ preventScroll: true });
  hit.scrollIntoView({ block: "nearest" });
}

/** Focus the next hit or the previous one; the first where none has the focus. */
export function step(by) {
  const hit = current();
  if (!hit) return focusHit(first());
  return focusHit(all(hit.dataset.side)[Number(hit.dataset.place) + by]);
}

/** Focus the same document on the other side, else the hit at the same place there. */
export function across() {
  const hit = current();
  if (!hit) return;
  const there = all(hit.dataset.side === "A" ? "B" : "A").filter(visible);
  focusHit(
    there.find((one) => one.dataset.document === hit.dataset.document) ??
      there[Math.min(place.at, there.length - 1)],
  );
}

/** After the hits were made anew: Tab reaches the place that it was at. */
export function keepPlace() {
  const hits = all(place.side);
  mark(hits.find((one) => one.dataset.document === place.document) ?? first());
  unpair();
}
