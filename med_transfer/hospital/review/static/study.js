// The viewer of a study: NiiVue as the Python package ipyniivue ships it. That is a notebook's widget, so this page
// plays the notebook: small models hold what the widget asks for and hear what it tells.
import widget from "/niivue.js";

const VIEWS = { axial: 0, coronal: 1, sagittal: 2, multi: 3, render: 4 }; // NiiVue's SLICE_TYPE
const MAP_FROM = 0.25; // share of the strongest value below which the map is not drawn
const TRANSPARENT_BELOW = 1; // NiiVue's COLORMAP_TYPE

class Model {
  #values;
  #handlers = new Map();
  _comm_live = false; // so that the widget sends no voxels back

  constructor(values, models = {}) {
    this.#values = values;
    this.widget_manager = { get_model: async (name) => models[name] };
  }
  get(name) {
    return this.#values[name];
  }
  set(name, value) {
    this.#values[name] = value;
  }
  change(name, value) {
    this.set(name, value);
    this.tell(`change:${name}`);
  }
  command(type, ...data) {
    this.tell("msg:custom", { type, data }, []);
  }
  tell(event, ...what) {
    for (const handler of this.#handlers.get(event) ?? []) handler(...what);
  }
  on(event, handler) {
    this.#handlers.set(event, [...(this.#handlers.get(event) ?? []), handler]);
  }
  off(event, handler) {
    this.#handlers.set(event, handler ? (this.#handlers.get(event) ?? []).filter((one) => one !== handler) : []);
  }
  send(message) {
    this.heard?.(message);
  }
  save_changes() {}
  send_sync_message() {}
}

const image = (id, data, more) =>
  new Model({
    id, data: new Uint8Array(data), name: `${id}.nii.gz`, path: {}, paired_img_path: {}, url: "", opacity: 1,
    colormap: "gray", colormap_negative: "", colormap_type: 0, colormap_invert: false, colorbar_visible: false,
    frame_4d: 0, modulation_image: null, modulate_alpha: 0, ...more,
  });

async function load(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).detail ?? answer.status);
  return answer.arrayBuffer();
}

const one = (selector) => document.querySelector(selector);
const place = one("#viewer"), status = one("#status");

function hasWebGL() {
  return Boolean(document.createElement("canvas").getContext("webgl2"));
}

function height() {
  return Math.round(Math.max(260, Math.min(place.clientWidth, window.innerHeight * 0.7)));
}

async function begin() {
  if (!hasWebGL()) {
    place.closest("section").classList.add("without-images");
    status.textContent = status.dataset.noWebgl;
    status.classList.add("notice");
    return;
  }
  const [voxels, heat] = await Promise.all([place.dataset.volume, place.dataset.map].map((from) => from && load(from)));
  const scan = image("scan", voxels, { cal_min: 0, cal_max: 80 });
  const models = { scan }, volumes = ["IPY_MODEL_scan"];
  let map = null;
  if (heat) {
    const look = { colormap: "warm", colormap_type: TRANSPARENT_BELOW, cal_min: MAP_FROM, cal_max: 1, opacity: 0.4 };
    map = models.map = image("map", heat, look);
    volumes.push("IPY_MODEL_map");
  }
  const options = {
    sliceType: VIEWS.multi, multiplanarShowRender: 1, isRadiologicalConvention: true, isOrientationTextVisible: true,
    showAllOrientationMarkers: true, sagittalNoseLeft: true, multiplanarPadPixels: 12, renderOverlayBlend: 0.4,
    dragAndDropEnabled: false, crosshairWidth: 0.3, crosshairWidthUnit: "percent",
    crosshairGap: 3, show3Dcrosshair: true,
    fontColor: [0.75, 0.88, 1, 1], crosshairColor: [0.3, 0.8, 1, 0.8], loadingText: place.dataset.loading,
    viewModeHotKey: "", clipPlaneHotKey: "", cycleClipPlaneHotKey: "", logLevel: "silent",
  };
  const main = new Model(
    {
      opts: options, volumes, meshes: [], height: height(), background_masks_overlays: 0, draw_opacity: 0.8,
      draw_fill_overwrites: true, overlay_outline_width: 0, overlay_alpha_shader: 1,
    },
    models,
  );
  main.heard = (message) => message.event === "location_change" && sayWhere(message.data);
  await widget.initialize({ model: main });
  await widget.render({ model: main, el: place });
  connect(main, scan, map, options);
  status.textContent = "";
  place.dataset.ready = "true";
}

function sayWhere({ mm, values }) {
  const [scan, map] = values;
  one("#value").textContent = `${Math.round(scan.value)} ${place.dataset.unit}`.trim();
  one("#place").textContent = [-mm[0], -mm[1], mm[2]].map((length) => length.toFixed(1)).join(", "); // RAS to LPS
  if (map) one("#share").textContent = `${Math.round(100 * map.value)} %`;
}

function connect(main, scan, map, options) {
  const view = (name) => {
    main.change("opts", { ...options, sliceType: VIEWS[name] });
    main.command("draw_scene");
    for (const button of document.querySelectorAll("[data-view]"))
      button.setAttribute("aria-pressed", String(button.dataset.view === name));
  };
  const window_ = (centre, width) => {
    scan.set("cal_min", centre - width / 2);
    scan.change("cal_max", centre + width / 2);
    scan.change("cal_min", centre - width / 2);
    one("#centre").value = centre;
    one("#width").value = width;
  };
  const opacity = (percent) => {
    const value = Math.max(0, Math.min(100, percent));
    map?.change("opacity", value / 100);
    if (!map) return;
    one("#opacity").value = value;
    one("#opacity-said").textContent = `${value} %`;
  };
  const preset = (button) => window_(Number(button.dataset.centre), Number(button.dataset.width));
  for (const button of document.querySelectorAll("[data-view]"))
    button.addEventListener("click", () => view(button.dataset.view));
  for (const button of document.querySelectorAll("[data-centre]")) button.addEventListener("click", () => preset(button));
  for (const input of [one("#centre"), one("#width")])
    input.addEventListener("change", () => {
      const [centre, width] = [one("#centre"), one("#width")].map((field) => Number(field.value));
      if (Number.isFinite(centre) && width > 0) window_(centre, width);
    });
  one("#opacity")?.addEventListener("input", (event) => opacity(Number(event.target.value)));
  let before = 40;
  const off = () => {
    const now = Number(one("#opacity").value);
    if (now) before = now;
    opacity(now ? 0 : before);
  };
  const windows = [...document.querySelectorAll("[data-centre]")];
  const step = (x, y, z) => main.command("move_crosshair_in_vox", x, y, z);
  const keys = {
    // NiiVue counts voxels to the patient's right, front and head; the right is on the left of the picture.
    ArrowLeft: () => step(1, 0, 0), ArrowRight: () => step(-1, 0, 0),
    ArrowUp: () => step(0, 1, 0), ArrowDown: () => step(0, -1, 0),
    PageUp: () => step(0, 0, 1), PageDown: () => step(0, 0, -1),
    1: () => view("multi"), 2: () => view("axial"), 3: () => view("coronal"), 4: () => view("sagittal"),
    5: () => view("render"),
    b: () => preset(windows[0]), l: () => preset(windows[1]), s: () => preset(windows[2]), n: () => preset(windows[3]),
    "[": () => map && opacity(Number(one("#opacity").value) - 10),
    "]": () => map && opacity(Number(one("#opacity").value) + 10),
    o: () => map && off(),
  };
  place.addEventListener(
    "keydown",
    (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
      if (event.key !== "Tab") event.stopPropagation(); // NiiVue has keys of its own
      if (!action) return;
      event.preventDefault();
      action();
    },
    true,
  );
  preset(windows[place.dataset.unit === "HU" ? 2 : 0]);
  addEventListener("resize", () => main.change("height", height()));
  step(0, 0, 0);
}

begin().catch((error) => {
  status.textContent = `${place.dataset.failed}: ${JSON.parse(place.dataset.reasons)[error.message] ?? error.message}`;
  status.classList.add("notice");
  place.hidden = true;
});
