// How search results are ordered: a page whose title has the words that were asked for comes first.
var Scorer = {
  score: (result) => {
    const [name, title, anchor, , score] = result;
    const asked = (new URLSearchParams(location.search).get("q") ?? "").toLowerCase().split(/[^a-z0-9]+/).filter(Boolean);
    const words = title.toLowerCase().split(/[^a-z0-9]+/);
    const found = asked.filter((word) => words.includes(word)).length;
    const table = /^notebooks\/[a-z]+\/table/.test(name) && !anchor ? 5 : 0;
    return score + 20 * found + table;
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
