"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const [NAME, SCORE, P, VERDICT, GOOD, FITTED, WORDS, KEY, PART] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const all = data.images;
const element = (id) => document.getElementById(id);
const [tiles, dialog, order, show, place, search] =
  ["tiles", "large", "order", "show", "place", "name"].map(element);
const verdict = (image) => data.verdicts[image[VERDICT]];
const grouped = data.parts.length > 0;
const ofPart = (image) => (image[PART] < 0 ? null : data.verdicts[data.parts[image[PART]][1]]); // the verdict on its part
// control characters and marks that change the direction of writing would hide what a name is
const plain = (text) => text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
  (each) => "\\u" + each.charCodeAt(0).toString(16).padStart(4, "0"));
const url = (key, side) => `${data.folder}/${key}-${data.sides[side]}.jpg`;

function saidOfPart(image) {
  const found = ofPart(image);
  const words = { anomalous: "flagged", normal: "not flagged", error: "error" };
  return found === null ? "" : `part ${plain(data.parts[image[PART]][0])}: ${words[found]}`;
}

const kinds = {
  all: ["all images", () => true],
  anomalous: ["flagged as anomalous", (image) => verdict(image) === "anomalous"],
  normal: ["not flagged", (image) => verdict(image) === "normal"],
  ...(grouped && {
    part: ["of flagged parts", (image) => ofPart(image) === "anomalous"],
    whole: ["of parts not flagged", (image) => ofPart(image) === "normal"],
  }),
  error: ["errors", (image) => verdict(image) === "error"],
  fitted: ["fitted on", (image) => image[FITTED] === 1],
  unseen: ["not fitted on", (image) => image[FITTED] === 0 && verdict(image) !== "error"],
};
for (const [key, [title, wanted]] of Object.entries(kinds)) {
  show.add(new Option(`${title} (${all.filter(wanted).length})`, key));
}

const collator = new Intl.Collator("en", { numeric: true });
const folders = all.map((image) => image[NAME].replace(/[^/]*$/, ""));
const counts = new Map();
for (const folder of folders) counts.set(folder, (counts.get(folder) ?? 0) + 1);
place.add(new Option(`all (${counts.size})`, "-1"));
const listed = [...counts.keys()].sort(collator.compare);
// folders are listed below the one that all of them share
let shared = listed.length > 1 ? listed[0] : "";
for (const folder of listed) while (!folder.startsWith(shared)) shared = shared.replace(/[^/]*\/?$/, "");
listed.forEach((folder, number) => {
  place.add(new Option(`${plain(folder.slice(shared.length)) || "./"} (${counts.get(folder)})`, number));
});

const scored = (image, missing) => (image[SCORE] === null ? missing : Number(image[SCORE]));
const orders = { // two errors differ by NaN, which leaves their order as it was
  high: (a, b) => scored(all[b], -Infinity) - scored(all[a], -Infinity) || a - b,
  low: (a, b) => scored(all[a], Infinity) - scored(all[b], Infinity) || a - b,
  name: (a, b) => collator.compare(all[a][NAME], all[b][NAME]),
  given: (a, b) => a - b,
};

let shown = []; // positions of the images that pass the filters, in order
let enlarged = 0; // place of the image that the dialog shows
let active = 0; // place in ``shown`` of the tile that the keyboard is on
let columns = 1, width = 0, height = 0;
const drawn = new Map(); // the tiles there are, by place in ``shown``

function choose() {
  const wanted = kinds[show.value][1];
  const folder = place.value === "-1" ? null : listed[Number(place.value)];
  const part = search.value.toLowerCase();
  shown = [];
  all.forEach((image, position) => {
    if (!wanted(image) || (folder !== null && folders[position] !== folder)) return;
    if (part && !image[NAME].toLowerCase().includes(part)) return;
    shown.push(position);
  });
  shown.sort(orders[order.value]);
  active = 0;
  element("status").textContent = `${shown.length} of ${all.length} images`;
  element("nothing").hidden = shown.length > 0;
  clear();
  layOut();
}

function clear() {
  for (const cell of drawn.values()) cell.remove();
  drawn.clear();
}

function layOut() {
  const room = tiles.clientWidth;
  const before = columns;
  columns = Math.max(2, Math.floor(room / 190));
  width = room / columns;
  height = Math.round(width) + (grouped ? 68 : 52);
  tiles.style.height = `${Math.ceil(shown.length / columns) * height}px`;
  if (columns !== before) clear();
  for (const [number, cell] of drawn) put(cell, number);
  draw();
}

function put(cell, number) {
  Object.assign(cell.style, {
    left: `${(number % columns) * width}px`, top: `${Math.floor(number / columns) * height}px`,
    width: `${width}px`, height: `${height}px`,
  });
}

function draw() {
  const top = -tiles.getBoundingClientRect().top;
  const first = Math.max(0, (Math.floor(top / height) - 2) * columns);
  const last = Math.min(shown.length, (Math.ceil((top + innerHeight) / height) + 2) * columns);
  const kept = (number) => (number >= first && number < last) || number === active;
  for (const [number, cell] of drawn) {
    if (kept(number)) continue;
    cell.remove();
    drawn.delete(number);
  }
  for (let number = first; number < last; number += 1) ensure(number);
  if (shown.length) ensure(active);
}

function ensure(number) {
  if (!drawn.has(number)) {
    const cell = made(number);
    put(cell, number);
    // in the order of the images, for those who go through them by ear
    const after = [...drawn.keys()].filter((other) => other > number).sort((a, b) => a - b)[0];
    tiles.insertBefore(cell, after === undefined ? null : drawn.get(after));
    drawn.set(number, cell);
  }
  drawn.get(number).firstChild.tabIndex = number === active ? 0 : -1;
}

function make(tag, kind, text) {
  const node = document.createElement(tag);
  if (kind) node.className = kind;
  if (text !== undefined) node.textContent = text;
  return node;
}

function said(image) {
  if (image[SCORE] === null) return "error";
  return `${verdict(image)} ${image[SCORE]}${image[FITTED] ? ", fitted on" : ""}`;
}

function made(number) {
  const image = all[shown[number]];
  const cell = make("div", "cell");
  cell.setAttribute("role", "listitem");
  cell.setAttribute("aria-setsize", shown.length);
  cell.setAttribute("aria-posinset", number + 1);
  const tile = make("button", `tile ${verdict(image)}`);
  tile.type = "button";
  tile.title = plain(image[NAME]);
  const frame = make("span", "frame");
  if (image[SCORE] === null) {
    frame.textContent = `cannot be scored: ${plain(image[WORDS])}`;
  } else {
    const picture = make("img");
    picture.alt = "";
    picture.decoding = "async";
    picture.addEventListener("error", () => frame.replaceChildren("its picture is missing"), { once: true });
    picture.src = url(image[KEY], 0);
    frame.append(picture);
  }
  const words = make("span", "words");
  words.append(make("span", "said", said(image)));
  if (grouped) words.append(make("span", `part ${ofPart(image) ?? ""}`, saidOfPart(image)));
  words.append(make("span", "", plain(image[NAME].split("/").pop())));
  tile.append(frame, words);
  tile.addEventListener("click", () => { go(number, false); enlarge(); });
  tile.addEventListener("focus", () => { go(number, false); });
  cell.append(tile);
  return cell;
}

function go(number, focus = true) {
  if (!shown.length) return;
  const before = drawn.get(active);
  if (before) before.firstChild.tabIndex = -1;
  active = Math.min(shown.length - 1, Math.max(0, number));
  if (focus) {
    const box = tiles.getBoundingClientRect();
    const top = box.top + Math.floor(active / columns) * height;
    const bar = document.querySelector(".controls");
    const covered = getComputedStyle(bar).position === "sticky" ? bar.offsetHeight : 0;
    if (top < covered) scrollBy(0, top - covered - 8);
    else if (top + height > innerHeight) scrollBy(0, top + height - innerHeight + 8);
    draw();
  }
  ensure(active);
  if (focus) drawn.get(active).firstChild.focus({ preventScroll: true });
}

tiles.addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor(innerHeight / height) - 1) * columns;
  const steps = {
    ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page,
    Home: -shown.length, End: shown.length,
  };
  if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  go(active + steps[event.key]);
});

function enlarge() {
  enlarged = active;
  const image = all[shown[active]];
  const [picture, good, line] = [element("image"), element("good"), element("verdict")];
  element("large-title").textContent = plain(image[NAME]);
  line.className = verdict(image);
  const failed = image[SCORE] === null;
  const fitted = image[FITTED] ? "; the detector was fitted on this image, so its score says nothing" : "";
  const part = grouped ? `; ${saidOfPart(image)}` : "";
  const p = image[P] === null ? "" : `, p-value ${image[P]}`;
  line.replaceChildren(make("b", "", verdict(image)), failed ? ` ${plain(image[WORDS])}${part}` : ` score ${image[SCORE]}${p}${part}${fitted}`);
  const [name, key] = image[GOOD] < 0 ? ["", null] : data.good[image[GOOD]];
  const missing = key === null ? "; its file is not on this disk, --good DIR says where good images are" : "";
  element("good-name").textContent = name ? `Nearest good image: ${plain(name)}${missing}` : "The nearest good image is unknown";
  for (const [node, at, text] of [[picture, failed ? null : image[KEY], image[NAME]], [good, key, name]]) {
    node.hidden = at === null;
    node.alt = plain(text);
    if (at === null) node.removeAttribute("src");
    else node.src = url(at, 1);
  }
  picture.parentElement.hidden = failed;
  good.parentElement.hidden = failed;
  element("previous").disabled = active === 0;
  element("next").disabled = active === shown.length - 1;
  if (!dialog.open) dialog.showModal();
}

function step(by) {
  if (active + by < 0 || active + by >= shown.length) return;
  go(active + by, false);
  enlarge();
}
element("previous").addEventListener("click", () => step(-1));
element("next").addEventListener("click", () => step(1));
element("close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
dialog.addEventListener("close", () => go(enlarged)); // the browser has given the focus back to the first one
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});

let waiting = false;
function soon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; draw(); });
}
addEventListener("scroll", soon, { passive: true });
addEventListener("resize", layOut);
for (const each of [show, place, order]) each.addEventListener("change", choose);
search.addEventListener("input", choose);
choose();
