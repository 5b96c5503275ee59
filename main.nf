#!/usr/bin/env nextflow
// ptychoflow: from scans to scored reconstructions. The flow, top to bottom:
//
//   PLAN - SIMULATE | INGEST - PREPARE - TRAIN - RECONSTRUCT | LSQML | EXPORT_PAIR - PTYCHOVIT - EVALUATE - COMPARE - COLLECT
//
// With --from what earlier stages made is given: scans, views, models or reconstructions join the flow where those of this run do.
// PLAN decides everything that parameters decide; the channels below only carry its entries to the processes.
// Channels hold [key, ...] with a String key wherever they are joined; a process takes one of them, all else are values.

include { PLAN          } from './modules/plan'
include { CHECK_DEVICE  } from './modules/check_device'
include { SIMULATE      } from './modules/simulate'
include { INGEST        } from './modules/ingest'
include { PREPARE       } from './modules/prepare'
include { TRAIN         } from './modules/train'
include { RECONSTRUCT   } from './modules/reconstruct'
include { LSQML         } from './modules/lsqml'
include { EXPORT_PAIR   } from './modules/export_pair'
include { PTYCHOVIT     } from './modules/ptychovit'
include { EVALUATE      } from './modules/evaluate'
include { COMPARE       } from './modules/compare'
include { COLLECT       } from './modules/collect'
include { CHECK_OUTCOME } from './modules/check_outcome'
include {
    checkedParameters ; codeRevision ; completionTable ; containersOf ; fullDisk ; givenFiles ; helpText ; jsonText ; located
    missingFiles ; planParameters ; readJson ; runTexts ; studyFile ; suppliedCode ; verdict ; writeFallbackTable
    withInterpreter ; writeParameters ; writeVersions
} from './modules/functions'

// Scans of all datasets of a plan: [dataset id, scan.npz].
workflow SCANS {
    take:
    ch_plan
    code_rev

    main:
    ch_datasets = ch_plan
        .flatMap { plan -> plan.datasets }
        .map { one -> [[id: one.id, kind: one.kind], jsonText(one.subMap(['id', 'config'])), one.file ?: []] }
        .branch { meta, _entry, _file ->
            simulate: meta.kind == 'simulate'
            ingest: meta.kind == 'ingest'
            ready: meta.kind == 'ready'
        }
    SIMULATE(ch_datasets.simulate, code_rev)
    INGEST(ch_datasets.ingest, code_rev)

    emit:
    scans = SIMULATE.out.scan
        .mix(INGEST.out.scan, ch_datasets.ready.map { meta, _entry, scan -> [meta, scan] })
        .map { meta, scan -> [meta.id, scan] }
    manifests = SIMULATE.out.record.mix(INGEST.out.record).map { meta, manifest, _picture -> [meta.id, 'scan', manifest] }
}

// Views that the data could give, or that were given: [view id, train scan, test scan, view.npz].
workflow VIEWS {
    take:
    ch_plan
    ch_scans
    code_rev

    main:
    ch_planned = ch_plan
        .flatMap { plan -> plan.views }
        .map { view ->
            def meta = view.subMap(['id', 'condition', 'folder', 'gridsize'])
            [view.train, view.test, meta, jsonText(view.subMap(['id', 'config'])), view.file]
        }
        .combine(ch_scans, by: 0)
        .map { _train, test, meta, entry, file, train_scan -> [test, meta, entry, file, train_scan] }
        .combine(ch_scans, by: 0)
        .map { _test, meta, entry, file, train_scan, test_scan -> [meta, entry, file, train_scan, test_scan] }
        .branch { _meta, _entry, file, _train_scan, _test_scan ->
            given: file
            made: true
        }
    PREPARE(ch_planned.made.map { meta, entry, _file, train_scan, test_scan -> [meta, entry, train_scan, test_scan] }, code_rev)

    emit:
    views = ch_planned.made
        .map { meta, _entry, _file, train_scan, test_scan -> [meta.id, train_scan, test_scan] }
        .join(PREPARE.out.view.map { meta, view -> [meta.id, view] }, failOnDuplicate: true)
        .mix(ch_planned.given.map { meta, _entry, file, train_scan, test_scan -> [meta.id, train_scan, test_scan, file] })
    statuses = PREPARE.out.status
    bundles = PREPARE.out.overlap.map { meta, _facts, bundle -> [meta, bundle] }
    manifests = PREPARE.out.manifest.map { meta, manifest -> [meta.id, 'view', manifest] }
}

// Reconstructions of external code: the parts of a view that it reads as pairs, once for all seeds, then one task a run.
workflow EXTERNAL {
    take:
    ch_jobs
    supplied
    device
    code_rev

    main:
    ch_parts = ch_jobs
        .flatMap { _key, meta, run, train_scan, test_scan, view ->
            def part = { name, dataset ->
                [id: "${run.view}__${name}".toString(), condition: meta.condition, dataset: dataset, part: name]
            }
            def test = [part.call('test', run.test), test_scan, view]
            meta.trains ? [[part.call('train', run.train_id), train_scan, view], test] : [test]
        }
        .unique { meta, _scan, _view -> meta.id }
    EXPORT_PAIR(ch_parts, code_rev)

    ch_pairs = EXPORT_PAIR.out.pairs.map { meta, pairs -> [meta.id, pairs] }
    ch_tested = ch_jobs
        .map { _key, meta, run, _train_scan, _test_scan, _view ->
            ["${run.view}__test".toString(), "${run.view}__train".toString(), meta, run]
        }
        .combine(ch_pairs, by: 0)
        .map { _test, train, meta, run, test_pairs -> [train, meta, run, test_pairs] }
        .branch { _train, meta, _run, _test_pairs ->
            trained: meta.trains
            restored: true
        }
    PTYCHOVIT(
        ch_tested.trained
            .combine(ch_pairs, by: 0)
            .map { _train, meta, run, test_pairs, train_pairs -> [meta, run.reconstruct, test_pairs, train_pairs] }
            .mix(ch_tested.restored.map { _train, meta, run, test_pairs -> [meta, run.reconstruct, test_pairs, []] }),
        supplied.checkpoint, supplied.base_config, supplied.options, device, code_rev
    )

    emit:
    recon = PTYCHOVIT.out.recon
    status = PTYCHOVIT.out.status
    history = PTYCHOVIT.out.history
    manifests = EXPORT_PAIR.out.manifest.map { meta, manifest -> [meta.id, 'pair', manifest] }
        .mix(PTYCHOVIT.out.manifest.map { meta, manifest -> [meta.id, 'reconstruct', manifest] })
}

// Reconstructions of all arms, in one shape: [run id, recon.npz, patch_metrics.json or nothing, snapshots.npz or nothing].
workflow ARMS {
    take:
    ch_jobs
    supplied
    device
    code_rev

    main:
    ch_arms = ch_jobs.branch { _key, meta, _run, _train_scan, _test_scan, _view ->
        neural: meta.kind == 'train'
        iterative: meta.kind == 'iterative'
        external: meta.kind == 'external'
        imported: meta.kind == 'imported'
    }
    ch_neural = ch_arms.neural.branch { _key, _meta, run, _train_scan, _test_scan, _view ->
        trained: run.model
        untrained: true
    }

    TRAIN(
        ch_neural.untrained.map { _key, meta, run, train_scan, _test_scan, view -> [meta, run.train, train_scan, view] },
        device, code_rev
    )
    ch_models = TRAIN.out.model
        .map { meta, model -> [meta.id, model] }
        .mix(ch_neural.trained.map { key, _meta, run, _train_scan, _test_scan, _view -> [key, run.model] })
    RECONSTRUCT(
        ch_arms.neural
            .join(ch_models, failOnDuplicate: true)
            .map { _key, meta, run, _train_scan, test_scan, view, model -> [meta, run.reconstruct, model, test_scan, view] },
        device, code_rev
    )

    LSQML(
        ch_arms.iterative.map { _key, meta, run, _train_scan, test_scan, view -> [meta, run.reconstruct, test_scan, view] },
        device, code_rev
    )

    EXTERNAL(ch_arms.external, supplied, device, code_rev)

    emit:
    recons = RECONSTRUCT.out.recon
        .mix(LSQML.out.recon.map { meta, recon, snapshots -> [meta, recon, [], snapshots] })
        .mix(EXTERNAL.out.recon.map { meta, recon -> [meta, recon, [], []] })
        .filter { _meta, recon, _patch_metrics, _snapshots -> recon }
        .map { meta, recon, patch_metrics, snapshots -> [meta.id, recon.first(), patch_metrics, snapshots] }
        .mix(ch_arms.imported.map { key, _meta, run, _train_scan, _test_scan, _view -> [key, run.recon, [], []] })
    statuses = TRAIN.out.status.mix(RECONSTRUCT.out.status, LSQML.out.status, EXTERNAL.out.status)
    manifests = TRAIN.out.manifest.map { meta, manifest -> [meta.id, 'train', manifest] }
        .mix(RECONSTRUCT.out.manifest.mix(LSQML.out.manifest).map { meta, manifest -> [meta.id, 'reconstruct', manifest] })
        .mix(EXTERNAL.out.manifests)
    histories = TRAIN.out.history.mix(LSQML.out.history, EXTERNAL.out.history)
}

// Scores run by run, pictures condition by condition.
workflow SCORES {
    take:
    ch_plan
    ch_jobs
    ch_recons
    code_rev

    main:
    ch_scored = ch_jobs
        .map { key, meta, run, _train_scan, test_scan, view -> [key, meta, run, test_scan, view] }
        .join(ch_recons, failOnDuplicate: true)

    // Where a condition holds several N, all its runs are scored on what the views of all of them cover. That does not depend
    // on gridsize, so one scan and view of each N serve all: [condition, {N: [scan, view]}].
    ch_several = ch_jobs
        .map { _key, meta, _run, _train_scan, test_scan, view -> [meta.condition, meta.n, [meta.gridsize, test_scan, view]] }
        .combine(ch_plan.flatMap { plan -> plan.conditions }.map { one -> [one.id, one.sides.size()] }, by: 0)
        .filter { _condition, _n, _view, sides -> sides > 1 }
        .map { condition, n, view, _sides -> [condition, n, view] }
        .groupTuple(by: [0, 1])
        .map { condition, n, views -> [condition, [n, views.min { one -> one.first() }.tail()]] }
        .groupTuple()
        .map { condition, sides -> [condition, sides.collectEntries { n, side -> [n, side] }.sort()] }
    ch_alone = ch_plan
        .flatMap { plan -> plan.conditions }
        .filter { one -> one.sides.size() == 1 }
        .map { one -> [one.id, [:]] }
    EVALUATE(
        ch_scored
            .map { _key, meta, run, test_scan, view, recon, patch_metrics, snapshots ->
                [meta.condition, meta, run.evaluate, recon, patch_metrics, snapshots, test_scan, view]
            }
            .combine(ch_several.mix(ch_alone), by: 0)
            .map { _condition, meta, run, recon, patch_metrics, snapshots, test_scan, view, sides ->
                def others = sides.findAll { n, _side -> n != meta.n }.values()*.last()
                [meta, run, recon, patch_metrics, snapshots, test_scan, view, others]
            },
        code_rev
    )

    // Terminal fan-in: a condition's runs that arrived, in the order of their ids, and scan and view of every N, whether a run of
    // it arrived or not.
    ch_conditions = ch_plan
        .flatMap { plan -> plan.conditions }
        .map { condition -> [condition.id, jsonText(condition)] }
    ch_compared = ch_scored
        .join(EVALUATE.out.metrics.map { meta, metrics -> [meta.id, metrics] }, failOnDuplicate: true)
        .join(EVALUATE.out.curves.map { meta, curves -> [meta.id, curves] }, failOnDuplicate: true)
        .map { key, meta, _run, test_scan, view, recon, _patch, _snapshots, metrics, curves ->
            [meta.condition, [id: key, recon: recon, metrics: metrics, curves: curves, side: [test_scan, view]]]
        }
        .groupTuple()
        .map { condition, runs -> [condition, runs.sort(false) { a, b -> a.id <=> b.id }] }
        .join(ch_conditions, failOnDuplicate: true)
        .join(ch_several.mix(ch_alone), failOnDuplicate: true)
        .map { condition, runs, entry, several ->
            def meta = [id: condition, condition: condition]
            def sides = several ? several.values().toList() : [runs.first().side]
            [meta, entry, runs*.recon, runs*.metrics, runs*.curves, sides*.first(), sides*.last()]
        }
    COMPARE(ch_compared, code_rev)

    emit:
    metrics = EVALUATE.out.metrics
    comparisons = COMPARE.out.visuals.map { meta, comparison, _pictures -> [meta, comparison.parent] }
    manifests = EVALUATE.out.manifest.map { meta, manifest -> [meta.id, 'evaluate', manifest] }
        .mix(COMPARE.out.tables.map { meta, _scores, _arrays, _curves, manifest -> [meta.id, 'compare', manifest] })
}

// The whole flow. With --plan_only the plan goes no further, and no other process finds an input.
workflow PTYCHOFLOW {
    take:
    parameters
    sheet
    study
    settings

    main:
    def code_rev = codeRevision(file("${projectDir}/python/ptychoflow"))
    def device = settings.use_gpu ? 'cuda' : 'cpu'

    PLAN(parameters, sheet, study, file("${projectDir}/conf/arms.json"), code_rev)
    PLAN.out.text.subscribe { text -> println(text.text) }
    ch_plan_file = PLAN.out.plan.flatMap { plan -> settings.plan_only ? [] : [plan] }
    ch_plan = ch_plan_file.map { plan -> readJson(plan) }
    ch_located = ch_plan.map { plan ->
        def found = located(plan, sheet ? sheet.parent : null, workflow.launchDir)
        def missing = missingFiles(found)
        missing ? error(missing) : found
    }

    SCANS(ch_located, code_rev)
    VIEWS(ch_located, SCANS.out.scans, code_rev)

    // Every planned run of every view that exists: [run id, meta, JSON texts by process, train scan, test scan, view].
    // Beside the texts of a run lies what was given: its model, or its reconstruction.
    ch_jobs = ch_located
        .flatMap { plan -> plan.runs }
        .map { run ->
            def meta = run.subMap(['condition', 'label', 'arm', 'kind', 'gridsize', 'n', 'seed']) + [id: run.run_id]
            def external = run.kind == 'external' ? [trains: run.config.ptychovit.mode != 'inference'] : [:]
            [run.view, meta + external, runTexts(run) + run.subMap(['view', 'test', 'model', 'recon']) + [train_id: run.train]]
        }
        .combine(VIEWS.out.views, by: 0)
        .map { _view_id, meta, run, train_scan, test_scan, view -> [meta.id, meta, run, train_scan, test_scan, view] }

    // A GPU that was asked for is tried once, before the first arm.
    ch_device = channel.value(device)
    if( settings.use_gpu ) {
        CHECK_DEVICE(device, code_rev)
        ch_device = CHECK_DEVICE.out.device
    }

    ARMS(ch_jobs, settings.supplied, ch_device, code_rev)
    SCORES(ch_plan, ch_jobs, ARMS.out.recons, code_rev)

    // Fan-in of whatever arrived, in the order of ids. toSortedList gives [] where collect would give nothing at all.
    ch_statuses = VIEWS.out.statuses.mix(ARMS.out.statuses)
        .map { meta, status -> [meta.id, readJson(status).stage, status] }
        .toSortedList { a, b -> a[0] <=> b[0] ?: a[1] <=> b[1] }
    ch_manifests = PLAN.out.manifest.map { manifest -> ['', 'plan', manifest] }
        .mix(SCANS.out.manifests, VIEWS.out.manifests, ARMS.out.manifests, SCORES.out.manifests)
        .toSortedList { a, b -> a[0] <=> b[0] ?: a[1] <=> b[1] }
    ch_histories = ARMS.out.histories.toSortedList { a, b -> a[0].id <=> b[0].id }
    def loss_reference = settings.loss_reference ? file(settings.loss_reference, checkIfExists: true) : []
    COLLECT(
        ch_plan_file,
        ch_statuses.map { rows -> rows*.last() },
        SCORES.out.metrics.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
        SCORES.out.comparisons.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
        ch_histories.map { rows -> [rows*.first()*.id, rows*.last()] },
        ch_manifests.map { rows -> rows*.last() },
        VIEWS.out.bundles.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
        ch_located.map { plan -> jsonText(givenFiles(plan, settings.sheets)) }.first(),
        loss_reference, settings.loss_tolerance, settings.min_success, code_rev
    )

    CHECK_OUTCOME(
        COLLECT.out.table
            .map { table -> verdict(table, settings.min_success, settings.fail_on_arm_error) }
            .mix(COLLECT.out.loss_check.map { report ->
                readJson(report).passed ? null : 'a loss lies beyond its limit, see summary/loss_check.json'
            })
            .filter { text -> text }
    )

    emit:
    plan = ch_plan
    table = COLLECT.out.table
    versions = COLLECT.out.versions
}

workflow {
    main:
    def schema = readJson(file("${projectDir}/nextflow_schema.json"))
    def told = params.help || params.help_full || params.version
    def given = told ? [:] : withInterpreter(checkedParameters(params, schema), workflow.launchDir)
    def sheet = given.input ? file(given.input, checkIfExists: true) : []
    def study = given.study ? studyFile(given.study, "${projectDir}/conf/studies") : []
    def outdir = file(params.outdir)
    def reached = [:]

    if( told ) {
        println(params.version ? "ptychoflow ${workflow.manifest.version}" : helpText(schema, params.help_full))
    }
    else if( given.validate_only ) {
        println("The parameters are valid: ${jsonText(given)}")
    }
    else {
        def names = ['use_gpu', 'plan_only', 'min_success', 'fail_on_arm_error', 'loss_reference', 'loss_tolerance']
        def settings = given.subMap(names) + [sheets: outdir.resolve('sheets'), supplied: suppliedCode(given)]
        writeParameters(given, outdir.resolve('pipeline_info/params.json'))
        PTYCHOFLOW(jsonText(planParameters(given, schema)), sheet, study, settings)
        PTYCHOFLOW.out.plan.subscribe { plan -> reached.plan = plan }
        PTYCHOFLOW.out.table.subscribe { table -> reached.table = table }
        PTYCHOFLOW.out.versions.subscribe { versions -> reached.versions = versions }
    }

    workflow.onComplete = {
        def full = workflow.success ? null : fullDisk([outdir, workflow.workDir])
        if( full ) {
            println(full)
        }
        else if( reached.plan ) {
            def table = outdir.resolve('summary/run_status.tsv')
            def trace = outdir.resolve('pipeline_info/trace.tsv')
            if( !reached.table ) {
                writeFallbackTable(reached.plan, table)
            }
            // These executors run containers without an engine of Nextflow's.
            def of_executor = params.scheduler in ['awsbatch', 'google_batch', 'azurebatch', 'k8s'] ? params.scheduler : null
            def engine = workflow.containerEngine ?: of_executor
            def head = [nextflow: workflow.nextflow.version, ptychoflow: workflow.manifest.version, engine: engine ?: 'no container']
            def lock = file("${projectDir}/containers/containers.lock.json")
            writeVersions(outdir.resolve('pipeline_info/versions.yml'), head, containersOf(trace, engine, lock), reached.versions)
            println(completionTable(reached.table ?: table, trace, params.outdir))
        }
    }
}
