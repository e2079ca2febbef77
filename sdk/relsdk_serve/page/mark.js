// Marks the words of the query in a text: words of letters and digits as a whole; of Chinese, Japanese and Korean,
// which have no spaces, every run of two or more characters that the query has, too.

const CJK =
  /[\u1100-\u11ff\u3005-\u3007\u3040-\u30ff\u3130-\u318f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\uf900-\ufaff]|[\u{20000}-\u{3ffff}]/u;
const WORD = /[\p{L}\p{N}\p{M}]/u;

/** Return [text, marked] pieces that joined are the text. */
export function markedPieces(text, query) {
  const characters = [...text];
  const plain = characters.map(plainOf);
  const marked = new Array(characters.length).fill(false);
  const { words, pairs, single } = termsOf(query);
  for (let start = 0; start < plain.length;) {
    if (CJK.test(plain[start])) {
      if (single.has(plain[start])) marked[start] = true;
      if (start + 1 < plain.length && pairs.has(plain[start] + plain[start + 1])) {
        marked[start] = marked[start + 1] = true;
      }
      start += 1;
    } else {
      const end = endOfWord(plain, start);
      if (words.has(plain.slice(start, end).join(""))) marked.fill(true, start, end);
      start = Math.max(end, start + 1);
    }
  }
  return pieces(characters, marked);
}

const plainOf = (character) => character.normalize("NFKC").toLowerCase();
const isWord = (character) => WORD.test(character) && !CJK.test(character);
const isDigit = (character) => /\p{N}/u.test(character);

/** Letters and digits part: "X200Pro" is x, 200, pro, as in the index. */
function endOfWord(plain, start) {
  let end = start;
  while (end < plain.length && isWord(plain[end]) && isDigit(plain[end]) === isDigit(plain[start])) end += 1;
  return end;
}

function termsOf(query) {
  const plain = [...query].map(plainOf);
  const words = new Set();
  const pairs = new Set();
  const single = new Set();
  for (let start = 0; start < plain.length;) {
    if (CJK.test(plain[start])) {
      let end = start;
      while (end < plain.length && CJK.test(plain[end])) end += 1;
      if (end - start === 1) single.add(plain[start]);
      for (let place = start; place + 1 < end; place += 1) pairs.add(plain[place] + plain[place + 1]);
      start = end;
    } else {
      const end = endOfWord(plain, start);
      if (end > start) words.add(plain.slice(start, end).join(""));
      start = Math.max(end, start + 1);
    }
  }
  return { words, pairs, single };
}

function pieces(characters, marked) {
  const found = [];
  for (let place = 0; place < characters.length; place += 1) {
    const last = found.at(-1);
    if (last && last[1] === marked[place]) last[0] += characters[place];
    else found.push([characters[place], marked[place]]);
  }
  return found;
}
