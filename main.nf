#!/usr/bin/env nextflow
// ptychoflow: from scans to scored reconstructions. The flow, top to bottom:
//
//   PLAN - SIMULATE | INGEST - PREPARE - TRAIN - RECONSTRUCT | LSQML - EVALUATE - COMPARE - COLLECT
//
// With --from evaluate reconstructions are given, and views where there are any; both join the flow where the others do.
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
include { EVALUATE      } from './modules/evaluate'
include { COMPARE       } from './modules/compare'
include { COLLECT       } from './modules/collect'
include { CHECK_OUTCOME } from './modules/check_outcome'
include {
    checkedParameters ; codeRevision ; completionTable ; helpText ; jsonText ; located ; missingFiles
    planParameters ; readJson ; runTexts ; studyFile ; verdict ; writeFallbackTable ; writeParameters
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
    manifests = SIMULATE.out.record.mix(INGEST.out.record).map { meta, manifest, _picture -> [meta, manifest] }
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
            def meta = view.subMap(['id', 'condition', 'gridsize'])
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
}

// Reconstructions of all arms, in one shape: [run id, recon.npz, patch_metrics.json or nothing, snapshots.npz or nothing].
workflow ARMS {
    take:
    ch_jobs
    device
    code_rev

    main:
    ch_arms = ch_jobs.branch { _key, meta, _run, _train_scan, _test_scan, _view ->
        train: meta.kind == 'train'
        iterative: meta.kind == 'iterative'
        imported: meta.kind == 'imported'
    }

    TRAIN(
        ch_arms.train.map { _key, meta, run, train_scan, _test_scan, view -> [meta, run.train, train_scan, view] },
        device, code_rev
    )
    RECONSTRUCT(
        ch_arms.train
            .join(TRAIN.out.model.map { meta, model -> [meta.id, model] }, failOnDuplicate: true)
            .map { _key, meta, run, _train_scan, test_scan, view, model -> [meta, run.reconstruct, model, test_scan, view] },
        device, code_rev
    )

    LSQML(
        ch_arms.iterative.map { _key, meta, run, _train_scan, test_scan, view -> [meta, run.reconstruct, test_scan, view] },
        device, code_rev
    )

    emit:
    recons = RECONSTRUCT.out.recon
        .mix(LSQML.out.recon.map { meta, recon, snapshots -> [meta, recon, [], snapshots] })
        .filter { _meta, recon, _patch_metrics, _snapshots -> recon }
        .map { meta, recon, patch_metrics, snapshots -> [meta.id, recon.first(), patch_metrics, snapshots] }
        .mix(ch_arms.imported.map { key, _meta, run, _train_scan, _test_scan, _view -> [key, run.recon, [], []] })
    statuses = TRAIN.out.status.mix(RECONSTRUCT.out.status, LSQML.out.status)
    manifests = TRAIN.out.manifest
    histories = TRAIN.out.history.mix(LSQML.out.history)
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
    EVALUATE(
        ch_scored.map { _key, meta, run, test_scan, view, recon, patch_metrics, snapshots ->
            [meta, run.evaluate, recon, patch_metrics, snapshots, test_scan, view]
        },
        code_rev
    )

    // Terminal fan-in: a condition's runs that arrived, in the order of their ids. The scored region does not depend on
    // gridsize, so the first run's view serves all.
    ch_conditions = ch_plan
        .flatMap { plan -> plan.conditions }
        .map { condition -> [condition.id, jsonText(condition)] }
    ch_compared = ch_scored
        .join(EVALUATE.out.metrics.map { meta, metrics -> [meta.id, metrics] }, failOnDuplicate: true)
        .join(EVALUATE.out.curves.map { meta, curves -> [meta.id, curves] }, failOnDuplicate: true)
        .map { key, meta, _run, test_scan, view, recon, _patch, _snapshots, metrics, curves ->
            [meta.condition, [id: key, recon: recon, metrics: metrics, curves: curves, scan: test_scan, view: view]]
        }
        .groupTuple()
        .map { condition, runs -> [condition, runs.sort(false) { a, b -> a.id <=> b.id }] }
        .join(ch_conditions, failOnDuplicate: true)
        .map { condition, runs, entry ->
            def meta = [id: condition, condition: condition]
            [meta, entry, runs*.recon, runs*.metrics, runs*.curves, runs.first().scan, runs.first().view]
        }
    COMPARE(ch_compared, code_rev)

    emit:
    metrics = EVALUATE.out.metrics
    comparisons = COMPARE.out.visuals.map { meta, comparison, _pictures -> [meta, comparison.parent] }
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
    // Beside the texts of an imported run lies its reconstruction.
    ch_jobs = ch_located
        .flatMap { plan -> plan.runs }
        .map { run ->
            def meta = run.subMap(['condition', 'label', 'arm', 'kind', 'gridsize', 'n', 'seed']) + [id: run.run_id]
            [run.view, meta, runTexts(run) + [recon: run.recon]]
        }
        .combine(VIEWS.out.views, by: 0)
        .map { _view_id, meta, run, train_scan, test_scan, view -> [meta.id, meta, run, train_scan, test_scan, view] }

    // A GPU that was asked for is tried once, before the first arm.
    ch_device = channel.value(device)
    if( settings.use_gpu ) {
        CHECK_DEVICE(device, code_rev)
        ch_device = CHECK_DEVICE.out.device
    }

    ARMS(ch_jobs, ch_device, code_rev)
    SCORES(ch_plan, ch_jobs, ARMS.out.recons, code_rev)

    // Fan-in of whatever arrived, in the order of ids. toSortedList gives [] where collect would give nothing at all.
    ch_statuses = VIEWS.out.statuses.mix(ARMS.out.statuses)
        .map { meta, status -> [meta.id, readJson(status).stage, status] }
        .toSortedList { a, b -> a[0] <=> b[0] ?: a[1] <=> b[1] }
    ch_histories = ARMS.out.histories.toSortedList { a, b -> a[0].id <=> b[0].id }
    def loss_reference = settings.loss_reference ? file(settings.loss_reference, checkIfExists: true) : []
    COLLECT(
        ch_plan_file,
        ch_statuses.map { rows -> rows*.last() },
        SCORES.out.metrics.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
        SCORES.out.comparisons.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
        ch_histories.map { rows -> [rows*.first()*.id, rows*.last()] },
        ARMS.out.manifests.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
        SCANS.out.manifests.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
        VIEWS.out.bundles.toSortedList { a, b -> a[0].id <=> b[0].id }.map { rows -> rows*.last() },
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
}

workflow {
    main:
    def schema = readJson(file("${projectDir}/nextflow_schema.json"))
    def told = params.help || params.help_full || params.version
    def given = told ? [:] : checkedParameters(params, schema)
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
        def settings = given.subMap(['use_gpu', 'plan_only', 'min_success', 'fail_on_arm_error', 'loss_reference', 'loss_tolerance'])
        writeParameters(given, outdir.resolve('pipeline_info/params.json'))
        PTYCHOFLOW(jsonText(planParameters(given, schema)), sheet, study, settings)
        PTYCHOFLOW.out.plan.subscribe { plan -> reached.plan = plan }
        PTYCHOFLOW.out.table.subscribe { table -> reached.table = table }
    }

    workflow.onComplete = {
        if( reached.plan ) {
            def table = outdir.resolve('summary/run_status.tsv')
            if( !reached.table ) {
                writeFallbackTable(reached.plan, table)
            }
            println(completionTable(reached.table ?: table, outdir.resolve('pipeline_info/trace.tsv'), params.outdir))
        }
    }
}
