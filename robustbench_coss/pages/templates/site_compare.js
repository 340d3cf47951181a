// ---- comparison ----

const swatch = (stroke) => {
  const picture = make("svg", { class: "swatch", viewBox: "0 0 44 14", "aria-hidden": "true" });
  picture.style.setProperty("--c", stroke.colour);
  picture.append(
    make("path", { class: "line", d: "M2 7H42", "stroke-dasharray": stroke.dash }),
    make("path", { class: "marks", d: `M22 7${stroke.marker}` }),
  );
  return picture;
};

/** A curve in a model's colour, dash and marker; its paths come with the page. */
const draw = ([thin, band, line, marks], stroke, marker, down) => {
  const group = make("g", { transform: `translate(0 ${down})` });
  group.style.setProperty("--c", stroke.colour);
  const add = (attributes) => attributes.d && group.append(make("path", attributes));
  if (thin) {
    add({ class: "thin", d: line });
  } else {
    add({ class: "band", d: band });
    add({ class: "line", d: line, "stroke-dasharray": stroke.dash });
    add({ class: "marks", d: marks.replaceAll(marker, stroke.marker) });
  }
  return group;
};

const cell = (text, interval, marked) => {
  const made = make("td", {}, make("span", { class: "num" }, text));
  if (marked) {
    const why = make("span", { class: "sr" }, " (doubtful: see the model's page)");
    made.append(make("span", { class: "mark" }, "†", why));
  }
  if (interval) made.append(make("span", { class: "interval" }, ` ${interval}`));
  return made;
};

/** The rows of a view that one of some models has numbers for. */
const rowsOf = (view, picked) => {
  const own = picked.map((model) => view.cells[model] ?? {});
  return view.rows.flatMap((name, at) =>
    own.some((cells) => at in cells)
      ? [[name, own.map((cells) => cell(...(cells[at] ?? ["–", "", 0])))]]
      : [],
  );
};

/** A word of a command as a shell takes it, whatever it holds. */
const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;

const compare = () => {
  const page = document.getElementById("compare");
  if (page === null) return;
  const data = JSON.parse(document.getElementById("data").textContent);
  const { models, strokes, marker, views } = data;
  const place = new Map(models.map(([id], i) => [id, i]));
  const label = (model) => models[model].slice(1).filter(Boolean).join(" · ");
  const [add, show] = ["add", "show"].map((id) => document.getElementById(id));
  const [message, legend, table] = ["message", "legend", "numbers"].map((id) =>
    document.getElementById(id),
  );
  const most = strokes.length;
  let picked = [];

  const say = (text, refused = false) => {
    message.textContent = text;
    message.classList.toggle("refused", refused);
  };

  const describe = () =>
    picked.length < 2
      ? `Choose ${picked.length === 0 ? "two" : "another one"} to ${most} models.`
      : `${picked.length} models are shown.`;

  /** The paired differences of the first two, where the page holds them. */
  const paired = () => {
    const section = document.getElementById("paired");
    const [one, other] = picked.map((model) => models[model][0]);
    section.hidden = picked.length !== 2;
    if (section.hidden) return;
    const [key] = [`${one} ${other}`, `${other} ${one}`].filter((name) => name in data.pairs);
    const box = document.getElementById("differences");
    section.querySelector("[data-verdict]").textContent =
      key === undefined
        ? `Not compared on this page: coss-bench compare ${picked.map(label).map(quoted).join(" ")} does it.`
        : data.pairs[key][0];
    box.parentElement.hidden = key === undefined;
    if (key === undefined) return;
    const sides = key.split(" ").map((page) => place.get(page));
    const short = sides.map((model) => models[model][1]);
    const names = short[0] === short[1] ? sides.map(label) : short;
    const head = (text) =>
      make("th", { scope: "col", class: text === "Verdict" ? "words" : "" }, text);
    const heads = ["Metric", `${names[0]} − ${names[1]}`, "p (Holm)", "Verdict"];
    box.replaceChildren(
      make("caption", { class: "sr" }, "Paired differences, with 95 % intervals"),
      make("thead", {}, make("tr", {}, ...heads.map((text) => head(text)))),
      make(
        "tbody",
        {},
        ...data.pairs[key][1].map(([heading, text, interval, p, verdict]) =>
          make(
            "tr",
            {},
            make("th", { scope: "row" }, heading),
            cell(text, interval, 0),
            make("td", {}, p),
            make("td", { class: "words" }, verdict.replace(/^[AB](?= )/, (side) => names["AB".indexOf(side)])),
          ),
        ),
      ),
    );
  };

  const update = () => {
    paired();
    const view = views[show.value];
    legend.replaceChildren(
      ...picked.map((model, k) => {
        const away = make("button", { type: "button", class: "quiet" }, "×");
        away.setAttribute("aria-label", `Take out ${label(model)}`);
        away.addEventListener("click", () => {
          picked = picked.filter((other) => other !== model);
          say(describe());
          update();
          add.focus();
        });
        const link = make("a", { href: `models/${models[model][0]}.html` }, label(model));
        const lacks = !(model in view.curves);
        const note = make("span", { class: "faint" }, lacks ? "not measured" : "");
        return make("li", {}, swatch(strokes[k]), link, note, away);
      }),
    );
    for (const section of document.querySelectorAll("[data-view]")) {
      section.hidden = section.dataset.view !== show.value;
      if (section.hidden) continue;
      section.querySelectorAll(".curves").forEach((group, p) => {
        const drawn = picked.flatMap((model, k) =>
          (view.curves[model]?.[p] ?? []).map((curve) =>
            draw(curve, strokes[k], marker, view.apart * (k - (picked.length - 1) / 2)),
          ),
        );
        group.replaceChildren(...drawn);
      });
    }
    table.replaceChildren(
      make("caption", { class: "sr" }, "What the plot shows, in numbers, with 95 % intervals"),
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, view.label),
          ...picked.map((model) => make("th", { scope: "col", class: "model" }, label(model))),
        ),
      ),
      make(
        "tbody",
        {},
        ...rowsOf(view, picked).map(([name, cells]) => make("tr", {}, make("th", { scope: "row" }, name), ...cells)),
      ),
    );
    fades();
    const address = `#models=${picked.map((model) => models[model][0]).join(",")}`;
    try {
      history.replaceState(null, "", `${address}&show=${show.value}`);
    } catch {
      // some browsers refuse for files; the page works without
    }
  };

  const pick = (model) => {
    if (picked.includes(model)) {
      say(`${label(model)} is shown already.`);
    } else if (picked.length === most) {
      say(`At most ${most} models fit one plot; take one out first.`, true);
    } else {
      picked.push(model);
      say(describe());
    }
  };

  add.addEventListener("change", () => {
    const model = place.get(add.value);
    add.value = "";
    if (model === undefined) return;
    pick(model);
    update();
  });
  show.addEventListener("change", update);

  const read = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    picked = [];
    say(describe());
    for (const id of (wanted.get("models") ?? "").split(",")) {
      if (place.has(id)) pick(place.get(id));
    }
    if (picked.length === 0) models.slice(0, 2).forEach((_, model) => pick(model));
    show.value = Object.hasOwn(views, wanted.get("show")) ? wanted.get("show") : "headline";
    update();
  };
  addEventListener("hashchange", read);
  read();
  page.hidden = false;
};

