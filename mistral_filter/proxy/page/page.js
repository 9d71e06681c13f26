// Start, Inspector and Try it. Texts from outside (explanations, answers, errors) are only ever put into the page as text.
const data = JSON.parse(document.getElementById("data").textContent);
const t = data.texts;
const $ = (id) => document.getElementById(id);
const filled = (text, ...values) => values.reduce((filled, value, i) => filled.replace(`{${i}}`, () => value), text);

// The browser knows the address of this page better than the headers that reach the server.
const root = location.origin + location.pathname.replace(/\/+$/, "");

function make(tag, name = "", ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

// ------------------------------------------------------------------------------------------------------------------- Start

if (root !== data.root) {
  for (const code of document.querySelectorAll("pre code")) {
    code.textContent = code.textContent.replaceAll(data.root, root);
  }
}
if (location.protocol === "https:") $("plain")?.remove();

// Makes tabs of the links in `list`: each leads to the panel that its fragment names. Without scripts they are links.
function makeTabs(list, chosen) {
  const tabs = [...list.querySelectorAll("a")];
  const panels = tabs.map((tab) => $(tab.hash.slice(1)));
  list.setAttribute("role", "tablist");
  const select = (i, focus) => {
    tabs.forEach((tab, j) => {
      tab.setAttribute("aria-selected", String(i === j));
      tab.tabIndex = i === j ? 0 : -1;
      panels[j].hidden = i !== j;
    });
    if (focus) tabs[i].focus();
  };
  tabs.forEach((tab, i) => {
    tab.id = `tab-${panels[i].id}`;
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panels[i].id);
    panels[i].setAttribute("role", "tabpanel");
    panels[i].setAttribute("aria-labelledby", tab.id);
    panels[i].removeAttribute("aria-label");
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      select(i, true);
      history.replaceState(null, "", tab.hash);
    });
    tab.addEventListener("keydown", (event) => {
      const next = {
        ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: tabs.length - 1,
      }[event.key];
      if (event.key === " ") tab.click();
      else if (next === undefined) return;
      else tabs.at(next % tabs.length).click();
      event.preventDefault();
    });
  });
  select(chosen, false);
  return (id) => {
    const found = panels.findIndex((panel) => panel.id === id);
    if (found >= 0) select(found, false);
    return found >= 0;
  };
}
const showClient = makeTabs($("clients"), 0);
const showSection = makeTabs($("sections"), 0);
function followFragment() {
  const id = location.hash.slice(1);
  if (showClient(id)) showSection("start");
  else showSection(id);
}
addEventListener("hashchange", followFragment);
followFragment();
if (location.hash) scrollTo(0, 0);
document.querySelector(".language").addEventListener("click", (event) => {
  event.currentTarget.hash = location.hash;
});

async function copy(code, button) {
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // over plain http browsers have no clipboard for scripts
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = t.copied;
  setTimeout(() => { button.textContent = t.copy; }, 1500);
}
for (const holder of document.querySelectorAll(".copyable")) {
  const button = make("button", "copy", t.copy);
  button.type = "button";
  button.setAttribute("aria-live", "polite");
  button.addEventListener("click", () => copy(holder.querySelector("code"), button));
  holder.append(button);
}

// --------------------------------------------------------------------------------------------------------------- Inspector

const KINDS = {none: "good", approximate: "warn", lost: "bad"};
const MOST_LINES = 4000, LONGEST = 300;

// A tree of valid JSON that keeps numbers, escapes and repeated keys as they are written.
function parse(text) {
  const token = /\s*("[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s{}[\],:"]+)/gy;
  const next = () => token.exec(text)[1];
  const value = (first) => {
    if (first !== "{" && first !== "[") return {raw: first};
    const node = {open: first, close: first === "{" ? "}" : "]", members: []};
    for (let word = next(); word !== node.close; word = next()) {
      if (word === ",") continue;
      if (first === "[") node.members.push({key: node.members.length, value: value(word)});
      else {
        next(); // the colon
        node.members.push({key: JSON.parse(word), raw: word, value: value(next())});
      }
    }
    return node;
  };
  return value(next());
}

const member = (node, key) => node.members.findLast((found) => found.key === key)?.value;
const placeOf = (steps) => JSON.stringify(steps);
const worst = (numbers, changes) =>
  ["lost", "approximate", "none"].find((loss) => numbers.some((n) => changes[n]?.loss === loss));

function chip(n, changes, from) {
  const link = make("a", `chip ${KINDS[changes[n].loss]}`, String(n + 1));
  link.href = `#change-${n + 1}`;
  link.id = `${from}-${n + 1}`;
  link.setAttribute("aria-label", filled(t.change, n + 1, `${t.action[changes[n].action]}, ${t.loss[changes[n].loss]}`));
  link.addEventListener("click", (event) => {
    event.preventDefault();
    flash(n + 1);
    $(`change-${n + 1}`).scrollIntoView({block: "nearest"});
  });
  return link;
}

// Shows change `n` in the list and in both bodies.
function flash(n) {
  document.querySelectorAll(".flash").forEach((element) => element.classList.remove("flash"));
  $(`change-${n}`).classList.add("flash");
  for (const link of [$(`before-${n}`), $(`after-${n}`)]) {
    const line = link?.closest("div");
    if (!line) continue;
    line.classList.add("flash");
    reveal(line);
  }
}
function reveal(line) {
  const box = line.parentElement;
  box.scrollTop += line.getBoundingClientRect().top - box.getBoundingClientRect().top - box.clientHeight / 3;
}

// Writes `tree` into `box`, one line for each member. `marks` are the numbers of changes by place; `ghosts` those of what is
// not there, by the place of what would hold it.
function render(box, tree, changes, marks, ghosts, from) {
  box.replaceChildren();
  let lines = 0, whole = ""; // the class of the lines of a value that is dropped or added as a whole
  const line = (depth, numbers, ...content) => {
    if (++lines > MOST_LINES) return null;
    const element = make("div", "", ...content);
    if (numbers.length) element.className = `mark ${KINDS[worst(numbers, changes)] ?? "bad"}`;
    else if (whole) element.className = `mark ${whole}`;
    element.style.paddingLeft = `${0.3 + depth * 1.1}em`;
    for (const n of numbers) if (changes[n]) element.append(" ", chip(n, changes, from));
    box.append(element);
    return element;
  };
  const walk = (node, steps, name, comma, depth) => {
    const place = placeOf(steps), numbers = marks.get(place) ?? [];
    if (!node.open) {
      const long = node.raw.length > LONGEST;
      const shown = long ? `${node.raw.slice(0, LONGEST)}… (${filled(t.characters, node.raw.length)})` : node.raw;
      line(depth, numbers, name + shown + comma);
      return;
    }
    const absent = ghosts.get(place) ?? [];
    if (!node.members.length && !absent.length) {
      line(depth, numbers, name + node.open + node.close + comma);
      return;
    }
    line(depth, numbers, name + node.open);
    const outer = whole, all = numbers.find((n) => changes[n]?.action === (from === "before" ? "drop" : "insert"));
    if (all !== undefined) whole = KINDS[changes[all].loss];
    node.members.forEach((found, i) => {
      const label = node.open === "{" ? `${found.raw}: ` : "";
      walk(found.value, [...steps, found.key], label, i + 1 < node.members.length ? "," : "", depth + 1);
    });
    for (const n of absent) {
      const {path, to} = changes[n], last = ((from === "after" && to) || path).match(/(\[\d+\]|[^.\]]*)$/)[1];
      const ghost = line(depth + 1, [], from === "after" ? make("s", "", last) : `+ ${last}`);
      ghost?.classList.add("ghost", KINDS[changes[n].loss]);
      ghost?.append(" ", chip(n, changes, from));
    }
    line(depth, [], node.close + comma);
    whole = outer;
  };
  walk(tree, [], "", "", 0);
  if (lines > MOST_LINES) box.append(make("div", "ghost", filled(t.more_lines, lines - MOST_LINES)));
}

const put = (map, place, n) => map.set(place, [...(map.get(place) ?? []), n]);

// A reason, or the two parts of one, in the language of the page as far as it has it.
function inLanguage(reason) {
  const part = (text) => data.reasons[text] ?? text;
  return data.reasons[reason] ?? reason.split(": ").map(part).reduce((whole, next) => filled(t.and_why, whole, next));
}

function listChange(change, n) {
  const kind = KINDS[change.loss];
  const path = make("span", "", make("code", "", change.path));
  if (change.to) path.append(" → ", make("code", "", change.to));
  const loss = make("span", "", make("span", `badge ${kind}`, t.loss[change.loss]));
  const reason = make("span", "", inLanguage(change.reason));
  if (change.current) reason.append(" ", make("span", "badge plain", t.current_keeps));
  const link = make("a", `chip ${kind}`, String(n + 1));
  link.href = "#panes";
  link.addEventListener("click", (event) => {
    event.preventDefault();
    flash(n + 1);
    $("panes").scrollIntoView({block: "nearest"});
  });
  const item = make("li", kind, link, make("span", "", t.action[change.action]), path, loss, reason);
  item.id = `change-${n + 1}`;
  return item;
}

const say = (...content) => $("verdict").replaceChildren(...content);
const alertBox = (title, text) => make("div", "alert", make("strong", "", title), " ", text);

// The lines around what is no JSON, with the character marked where reading stopped.
function excerpt(body, {line, column}) {
  const lines = body.split("\n"), box = make("pre");
  for (let i = Math.max(0, line - 3); i < Math.min(lines.length, line + 1); i++) {
    const number = `${String(i + 1).padStart(4)}  `, at = i === line - 1 ? column - 1 : -1;
    const start = Math.max(0, at - 60), characters = [...lines[i]];
    if (at < 0) box.append(`${number}${lines[i].slice(0, 120)}\n`);
    else {
      const rest = characters.slice(at + 1, at + 60).join("");
      box.append(number + (start ? "…" : "") + characters.slice(start, at).join(""),
        make("mark", "", characters[at]?.trim() ? characters[at] : "␣"), `${rest}\n`);
    }
  }
  const before = [...lines.slice(0, line - 1), [...lines[line - 1]].slice(0, column - 1).join("")].join("\n").length;
  $("body").setSelectionRange(before, before + 1);
  return box;
}

function showExplanation(text, body) {
  const told = JSON.parse(text), tree = parse(text), {changes, error} = told;
  const marks = [new Map(), new Map()], absent = [new Map(), new Map()];
  if (error) {
    const {message} = error.error, box = alertBox(filled(t.refused, error.error.code), message);
    if (told.position) {
      box.append(make("p", "", filled(t.where, told.position.line, told.position.column)), excerpt(body, told.position));
    }
    say(box);
    if (!told.place) return;
    marks[0].set(placeOf(told.place), [0]);
    render($("before"), member(tree, "before"), [], marks[0], absent[0], "before");
    $("after").replaceChildren(t.nothing);
    $("panes").hidden = false;
    return;
  }
  changes.forEach((change, n) => {
    const {action, before, after} = change;
    const added = action === "insert" && placeOf(before) !== placeOf(after);
    put((added || !before.length ? absent : marks)[0], placeOf(before), n);
    put((action === "drop" || !after.length ? absent : marks)[1], placeOf(after), n);
  });
  ["before", "after"].forEach((side, i) => render($(side), member(tree, side), changes, marks[i], absent[i], side));
  $("panes").hidden = false;
  for (const first of document.querySelectorAll(".json > :nth-child(1 of :has(.chip))")) reveal(first);
  $("list-of-changes").replaceChildren(...changes.map(listChange));
  if (told.more) $("list-of-changes").append(make("li", "", "…", "", filled(t.more, told.more)));
  const counts = ["lost", "approximate", "none"].map((loss) => changes.filter((change) => change.loss === loss).length);
  const kept = changes.filter((change) => change.current);
  say(make("p", "", make("strong", "", changes.length ? filled(t.summary, changes.length + told.more, ...counts) : t.unchanged)));
  if (!kept.length) return;
  const button = make("button", "", t.use_current);
  button.addEventListener("click", () => {
    $("list").value = "current";
    inspect();
    $("list").focus();
  });
  const names = kept.flatMap((change) => [" ", make("code", "", change.path)]);
  $("verdict").append(make("p", "", t.current_would, ...names, " ", button));
}

let asked = 0;
async function inspect() {
  const body = $("body").value, mine = ++asked;
  $("panes").hidden = true;
  $("list-of-changes").replaceChildren();
  if (!body.trim()) return say(make("p", "", t.empty));
  if (new Blob([body]).size > data.largest) return say(alertBox(filled(t.too_large, data.largest >> 10), ""));
  say(make("p", "soft", t.working));
  const target = `${root}/explain/${$("endpoint").value}?fields=${$("list").value}`;
  let status = 0, text = "";
  try {
    const response = await fetch(target, {method: "POST", body});
    [status, text] = [response.status, await response.text()];
  } catch { /* status 0: no answer */ }
  if (mine !== asked) return;
  if (status === 200) showExplanation(text, body);
  else say(alertBox(status === 503 ? t.busy : status ? filled(t.http, status) : t.network, status ? errorOf(text) : ""));
}

$("inspect").addEventListener("submit", (event) => { event.preventDefault(); inspect(); });
$("body").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) inspect();
});
for (const name of ["endpoint", "list"]) {
  $(name).addEventListener("change", () => {
    $("list").disabled = $("endpoint").value !== "chat";
    if ($("body").value.trim()) inspect();
  });
}
$("samples").addEventListener("click", (event) => {
  const sample = data.samples[event.target.closest("button")?.value];
  if (!sample) return;
  $("body").value = JSON.stringify(sample.body, null, 2);
  chooseEndpoint(sample.endpoint);
  inspect();
});
function chooseEndpoint(name) {
  const known = [...$("endpoint").options].some((option) => option.value === name);
  $("endpoint").value = known ? name : "chat";
  $("list").disabled = $("endpoint").value !== "chat";
}
chooseEndpoint(new URLSearchParams(location.search).get("endpoint"));

// ------------------------------------------------------------------------------------------------------------------ Try it

const MOST_TURNS = 40;
const turns = [];
let running = null;

const base = () => `${root}/${upstream() ? `${upstream()}/` : ""}v1`;
const headers = () => ({Authorization: `Bearer ${$("key").value.trim() || "sandbox"}`, "Content-Type": "application/json"});

// What an error's body says, in the shape that every error of this server has.
function errorOf(text) {
  try {
    const {error, message} = JSON.parse(text);
    return String(error?.message ?? message ?? text).slice(0, 1000);
  } catch {
    return text.slice(0, 300);
  }
}

// What a refusal says, in the language of the page as far as it has words for its status.
function refusal(response, text) {
  const wait = response.headers.get("Retry-After") ?? "";
  const words = t.statuses[response.status] ?? filled(t.http, response.status);
  return [words, /^\d+$/.test(wait) ? filled(t.wait, wait) : "", errorOf(text)].filter(Boolean).join(" ");
}

// One key for each upstream, so that none is sent to another. Storage may be off: then they are kept in the page alone.
let keys = {};
try { keys = JSON.parse(sessionStorage.getItem("mistral-filter keys")) ?? {}; } catch { /* none */ }
const upstream = () => $("upstream")?.value ?? "";
function showKey() { $("key").value = keys[upstream()] ?? ""; }
$("key").addEventListener("input", () => {
  keys[upstream()] = $("key").value.trim();
  try { sessionStorage.setItem("mistral-filter keys", JSON.stringify(keys)); } catch { /* not stored */ }
});
// Where there is a stand-in, a visitor without a key can start with it.
if (!keys[""] && $("upstream")?.querySelector("[value=sandbox]")) $("upstream").value = "sandbox";
showKey();
const hasKey = () => {
  if ($("key").value.trim() || upstream() === "sandbox") return true;
  $("key").focus();
  $("models").textContent = filled(t.need_key, $("key").labels[0].innerText.trim());
  return false;
};

async function loadModels() {
  if (!hasKey()) return;
  $("models").textContent = t.working;
  try {
    const response = await fetch(`${base()}/models`, {headers: headers()}), text = await response.text();
    if (!response.ok) return void ($("models").textContent = refusal(response, text));
    const chats = JSON.parse(text).data.filter((model) => model.capabilities?.completion_chat !== false);
    const names = [...new Set(chats.map((model) => String(model.id)))].sort().slice(0, 500), chosen = $("model").value;
    $("model").replaceChildren(...names.map((name) => make("option", "", name)));
    if (names.includes(chosen)) $("model").value = chosen;
    $("models").textContent = filled(t.models_loaded, names.length);
  } catch {
    $("models").textContent = t.network;
  }
}
$("access").addEventListener("submit", (event) => { event.preventDefault(); loadModels(); });
$("upstream")?.addEventListener("change", () => {
  $("models").textContent = "";
  showKey();
  if ($("key").value || upstream() === "sandbox") loadModels();
});

function addTurn(kind, name) {
  const text = make("div", "text");
  const turn = make("div", `turn ${kind}`, make("small", "", name), text);
  $("chat").append(turn);
  while ($("chat").children.length > 2 * MOST_TURNS) $("chat").firstChild.remove();
  return {turn, text};
}

// The data of each event of a stream, until it ends.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const blocks = (held + part.value).split(/\r?\n\r?\n/);
    held = blocks.pop();
    for (const block of blocks) {
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}

// Enables one of the two buttons. A disabled one loses the focus of the keyboard, so it goes to where it is of use.
function switchTo(name) {
  const other = name === "send" ? "stop" : "send", moves = document.activeElement === $(other);
  $(name).disabled = false;
  $(other).disabled = true;
  if (moves) $(name === "send" ? "message" : "stop").focus();
}

async function ask() {
  const question = $("message").value.trim();
  if (running || !question) return;
  if (!hasKey()) return;
  $("models").textContent = "";
  $("message").value = "";
  turns.push({role: "user", content: question});
  turns.splice(0, turns.length - MOST_TURNS);
  addTurn("you", t.you).text.textContent = question;
  const {turn, text} = addTurn("live", $("model").value), thought = make("div");
  const folded = make("details", "", make("summary", "", t.reasoning), thought), notes = make("small");
  turn.append(notes);
  const body = {model: $("model").value, messages: turns, stream: true};
  if ($("as-client").checked) Object.assign(body, {user: "me", max_completion_tokens: 2000, stream_options: {include_usage: true}});
  running = new AbortController();
  switchTo("stop");
  const began = performance.now(), seconds = () => ((performance.now() - began) / 1000).toFixed(2);
  let first = null, begun = false, finished = false, failed = "", answer = "";
  try {
    const response = await fetch(`${base()}/chat/completions`, {
      method: "POST", headers: headers(), body: JSON.stringify(body), signal: running.signal,
    });
    begun = true;
    const made = response.headers.get("Mistral-Filter-Changes");
    if (made || response.ok) notes.append(made ? `${t.changed} ${readable(made)}` : t.no_changes, make("br"));
    if (!response.ok) failed = refusal(response, await response.text());
    else for await (const event of events(response)) {
      first ??= seconds();
      if (event === "[DONE]") { finished = true; break; }
      const piece = JSON.parse(event), choice = piece.choices?.[0];
      if (piece.error) { failed = piece.error.code === "upstream_cut" ? t.cut : errorOf(event); break; }
      const {content, reasoning_content: reasoning, tool_calls: calls} = choice?.delta ?? {};
      if (reasoning) {
        if (!folded.isConnected) text.before(folded);
        thought.append(reasoning);
      }
      if (content) { answer += content; text.append(content); }
      for (const call of calls ?? []) if (call.function?.name) text.append(filled(t.sent_tools, call.function.name));
    }
    if (!failed && !finished) failed = t.cut;
  } catch (error) {
    failed = error.name === "AbortError" ? t.stopped : begun ? t.cut : t.network;
  }
  if (failed === t.stopped) notes.append(`${t.stopped} `);
  else if (failed) text.after(make("div", "alert", failed));
  if (first !== null) notes.append(filled(t.times, first, seconds()));
  if (answer) turns.push({role: "assistant", content: answer});
  else turns.pop();
  turn.classList.remove("live");
  running = null;
  switchTo("send");
}

// The header's structured fields as words: `user (dropped, nothing lost)`.
function readable(header) {
  return header.split(", ").map((item) => {
    const [action, ...rest] = item.split(";");
    const value = (name) => rest.find((part) => part.startsWith(`${name}=`))?.slice(name.length + 1).replace(/^"|"$/g, "");
    if (!value("path")) return item;
    const to = value("to") ? ` → ${value("to")}` : "", times = value("count") ? ` ×${value("count")}` : "";
    return filled(t.made, value("path") + to + times, t.action[action] ?? action, t.loss[value("loss")] ?? value("loss"));
  }).join(t.between);
}

$("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return; // composing: Enter ends a Chinese word
  event.preventDefault();
  ask();
});
$("stop").addEventListener("click", () => running?.abort());
$("clear").addEventListener("click", () => {
  running?.abort();
  turns.length = 0;
  $("chat").replaceChildren();
});
